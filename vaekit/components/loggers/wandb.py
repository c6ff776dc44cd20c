"""The logger ``wandb``."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vaekit.extras import import_extra
from vaekit.files import write_text
from vaekit.roles import loggers
from vaekit.specs.models import RunSpec
from vaekit.training.logger import Logger

if TYPE_CHECKING:
    from PIL import Image

    from vaekit.training.logger import Outcome


@loggers("wandb")
class Wandb(Logger):
    """Weights & Biases: log curves, images, the spec as the config, and the test metrics as the summary.

    Files are written to `wandb` in the run folder. A resumed run continues under the same id; steps that W&B already has are
    skipped. If a run is killed, W&B may lack its last epochs; `metrics.jsonl` has them. Requires `pip install "vaekit[wandb]"`
    and, in online mode, `wandb login`.

    Args:
        project: Name of the project.
        entity: User or team that owns the runs; default: the current user.
        mode: Whether to send logs immediately or store them for `wandb sync`; default: WANDB_MODE if set, else online.
    """

    def __init__(
        self, *, project: str = "vaekit", entity: str | None = None, mode: Literal["online", "offline"] | None = None
    ) -> None:
        self.project, self.entity, self.mode = project, entity, mode
        self.library = import_extra("wandb", "wandb", "the logger 'wandb'")
        self.run: Any = None

    def start(self, run: Path, spec: RunSpec, step: int | None) -> str:
        self.file = run / "wandb" / "vaekit.json"
        self.file.parent.mkdir(exist_ok=True)
        known = json.loads(self.file.read_text("utf-8")) if step is not None and self.file.is_file() else {}
        self.id, self.before = known.get("id", secrets.token_hex(4)), known.get("step", -1)
        self.run = self.library.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            id=self.id,
            resume="allow",
            name=spec.train.name or run.name,
            tags=spec.train.tag,
            dir=run,
            config=spec.model_dump(mode="json"),
            reinit="create_new",  # the models of a sweep are trained concurrently
            settings=self.library.Settings(console="off", silent=True),  # vaekit reports to the terminal
        )
        self._remember(self.before)
        return f"wandb sync {Path(self.run.dir).parent}" if self.run.offline else str(self.run.url)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if step > self.before:
            self.run.log(dict(values), step=step)
            self._remember(step)

    def image(self, step: int, name: str, picture: Image.Image) -> None:
        self.run.log({name: self.library.Image(picture)}, step=step)

    def end(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            self.run.summary.update(dict(outcome.evaluation))
        self.run.finish(exit_code=0 if outcome is not None else 1)

    def _remember(self, step: int) -> None:
        """Save what is needed to resume: the run id and the last step sent."""
        write_text(self.file, json.dumps({"id": self.id, "step": step}) + "\n")
