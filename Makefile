.PHONY: check format test bench

check:
	ruff format --check .
	ruff check .
	pyright
	pytest

format:
	ruff format .
	ruff check --fix .

test:
	pytest

bench:
	python benchmarks/one_sae_pass.py
	python benchmarks/pages.py
