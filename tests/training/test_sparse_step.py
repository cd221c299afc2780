"""The lean step against autograd on the dense expression."""

import pytest
import torch

from dmcore.training.lean import sparse_step


def problem(n_tokens=64, d_in=12, d_sae=40, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n_tokens, d_in, generator=g)
    enc, dec = torch.randn(d_sae, d_in, generator=g), torch.randn(d_sae, d_in, generator=g)
    b_enc, b_dec = 0.1 * torch.randn(d_sae, generator=g), torch.randn(d_in, generator=g)
    return x, [p.requires_grad_() for p in (enc, dec, b_enc, b_dec)]


def dense_loss(x, parameters, mask_of):
    enc, dec, b_enc, b_dec = parameters
    pre = x @ enc.T + b_enc
    active = (pre * mask_of(pre.detach())).relu()
    return (active @ dec + b_dec - x).square().mean()


def top_k_mask(k):
    return lambda pre: torch.zeros_like(pre).scatter_(1, pre.topk(k, dim=1).indices, 1.0)


def lean_gradients(x, parameters, codes_of):
    enc, dec, b_enc, b_dec = (p.detach() for p in parameters)
    codes = codes_of(sparse_step.pre_activations(x, enc, b_enc, torch.float32))
    recon = sparse_step.decode(codes, codes.values, dec) + b_dec
    grad = 2 * (recon - x) / x.numel()
    found = sparse_step.gradients(codes, x, grad, dec)
    return found.enc, found.dec, found.b_enc, grad.sum(0)


@pytest.mark.parametrize("k", [1, 5, 30, 40])
def test_top_k_gradients_equal_dense_autograd(k):
    x, parameters = problem()
    dense_loss(x, parameters, top_k_mask(k)).backward()
    lean = lean_gradients(x, parameters, lambda pre: sparse_step.top_k_codes(pre, k))
    for parameter, gradient in zip(parameters, lean, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


def test_batch_top_k_gradients_equal_dense_autograd():
    x, parameters = problem()
    k = 3

    def mask_of(pre):
        mask = torch.zeros(pre.numel())
        mask[pre.flatten().topk(k * len(pre)).indices] = 1.0
        return mask.view_as(pre)

    dense_loss(x, parameters, mask_of).backward()
    lean = lean_gradients(x, parameters, lambda pre: sparse_step.batch_top_k_codes(pre, k)[0])
    for parameter, gradient in zip(parameters, lean, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


def test_top_k_codes_hold_the_largest_and_negative_ones_as_zero():
    pre = torch.tensor([[3.0, -1.0, 2.0], [-5.0, -2.0, -3.0]])
    codes = sparse_step.top_k_codes(pre, 2)
    dense = torch.zeros(2, 3).index_put((codes.rows, codes.columns), codes.values)
    torch.testing.assert_close(dense, torch.tensor([[3.0, 0.0, 2.0], [0.0, 0.0, 0.0]]))


def test_batch_top_k_spreads_the_budget_over_tokens_and_tells_its_threshold():
    pre = torch.tensor([[9.0, 8.0, 7.0], [6.0, 1.0, -1.0]])
    codes, threshold = sparse_step.batch_top_k_codes(pre, 2)
    assert sorted(codes.values.tolist()) == [6.0, 7.0, 8.0, 9.0]
    assert threshold == 6.0
    assert codes.rows.tolist() == sorted(codes.rows.tolist())


def test_batch_top_k_takes_no_negative_value_where_too_few_are_positive():
    codes, _ = sparse_step.batch_top_k_codes(torch.tensor([[1.0, -1.0], [-2.0, -3.0]]), 2)
    assert codes.values.tolist() == [1.0]
    recon = sparse_step.decode(codes, codes.values, torch.ones(2, 4))
    torch.testing.assert_close(recon, torch.tensor([[1.0] * 4, [0.0] * 4]))


def test_a_token_without_active_latents_decodes_to_nothing_and_gets_no_gradient():
    codes = sparse_step.SparseCodes(torch.tensor([1]), torch.tensor([2]), torch.tensor([0.5]), n_tokens=3)
    dec = torch.eye(4)
    assert sparse_step.decode(codes, codes.values, dec)[[0, 2]].abs().sum() == 0
    found = sparse_step.gradients(codes, torch.ones(3, 4), torch.ones(3, 4), dec)
    assert found.dec[2].tolist() == [0.5] * 4
    assert found.dec[[0, 1, 3]].abs().sum() == 0


@pytest.mark.parametrize(("width", "k", "size"), [(64, 3, 8), (64, 8, 8), (1024, 16, 8), (32, 1, 2)])
def test_grouped_top_k_finds_what_top_k_finds(width, k, size):
    pre = torch.randn(50, width, generator=torch.Generator().manual_seed(width))
    values, columns = sparse_step.grouped_top_k(pre, k, size)
    torch.testing.assert_close(values.sort(1).values, pre.topk(k, dim=1).values.sort(1).values)
    assert torch.equal(pre.gather(1, columns), values)
    assert all(len(set(row.tolist())) == k for row in columns)
