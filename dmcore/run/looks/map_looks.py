"""What is asked of the map from x to an SAE's error: whether it is undone shrinkage, and whether it holds elsewhere."""

from __future__ import annotations

from functools import partial

from dmcore.errors import DarkMatterError
from dmcore.results.shrinkage import Shrinkage
from dmcore.results.transfer import BY, Transfer
from dmcore.run.looks.error_looks import ErrorLooks
from dmcore.run.looks.shrinkage import find_shrinkage, make_shrinkage
from dmcore.run.looks.transfer import find_transfer, make_transfer, transfer_asked
from dmcore.run.plan import SaePlan
from dmcore.run.sae_stages import AnyDictionary, SaeStages


class MapLooks(ErrorLooks):
    """Looks at the linear maps of a study's SAEs.

    Args:
        pipeline, study: as of `ErrorLooks`.
    """

    def shrinkage(self, name: str) -> Shrinkage:
        """How much of an SAE's linear error is undone shrinkage, and what its map is, made where it is not there.

        Args:
            name: the SAE's, or the end of it.

        Raises:
            SpecError: the study has no such SAE.
            StoreError: it has no result yet.
            DataError: too few tokens for a linear map.
        """
        sae = self.sae(name)
        if (found := find_shrinkage(self.store, sae)) is None:
            stages = self.pipeline.stages(self.plan, sae)
            found = make_shrinkage(stages, sae, self.pipeline.loader(self.plan, stages.site)(sae))
        return Shrinkage.read(found.path)

    def transfer(self, name: str, by: str) -> Transfer:
        """Whether maps hold where they were not fitted, around one SAE, made where it is not there.

        Args:
            name: the SAE's, or the end of it.
            by: of `dmcore.results.transfer.BY`: domain, layer, sae or width.

        Raises:
            SpecError: the study has no such SAE, or there is no such kind of matrix.
            StoreError: it has no result yet.
            DataError: there is nothing to transfer between, or too few tokens for a map.
        """
        asked = transfer_asked(self.plan, self.store, self.sae(name), by)
        if (found := find_transfer(self.store, asked)) is None:

            def load(sae: SaePlan, of_site: SaeStages) -> AnyDictionary:
                return self.pipeline.loader(self.plan, of_site.site)(sae)

            found = make_transfer(asked, self.plan, partial(self.pipeline.stages, self.plan), load)
        return Transfer.read(found.path)

    def transfers(self, name: str) -> str:
        """Every matrix around one SAE that its study allows.

        Returns:
            a sentence about what could not be had; empty where all is there.

        Raises:
            SpecError: the study has no such SAE.
            StoreError: it has no result yet.
            DataError: nothing could be had.
        """
        self.sae(name)
        failures = []
        for by in BY:
            try:
                self.transfer(name, by)
            except DarkMatterError as error:
                failures.append(error)
        if len(failures) == len(BY):
            raise failures[0]
        return str(failures[0]) if failures else ""
