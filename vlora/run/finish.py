"""The last event of a run: what it has written, and how the trained model is asked."""

from pathlib import Path

from .. import models
from ..data.examples import first_examples
from ..errors import AnswerError
from ..events import Finished
from ..output.atomic import write_whole
from ..output.paths import EXAMPLE_NAME
from ..types import Sample
from .context import RunContext

ANY_QUESTION = "Describe this."

READ_ROWS = 32
"""Rows that are looked at for one that the model can be asked about."""


def finish(run: RunContext) -> Finished:
    """Sum up a run that is over, or was stopped."""
    image, question = _write_example(run) if run.ranks.is_first else (None, ANY_QUESTION)
    is_full, files = run.recipe.model.full_finetune, run.data.files
    base = str(run.paths.base) if files.added else run.recipe.model.path
    return Finished(
        step=run.done,
        n_steps=run.n_steps,
        model=str(run.paths.weights) if is_full else str(files.path if "builtin:" in base else base),
        revision=None if is_full or files.added else files.commit,
        adapter=None if is_full else run.paths.weights,
        metrics=run.paths.metrics,
        example_image=image,
        example_question=question,
        max_new_tokens=run.recipe.eval.max_new_tokens,
        n_skipped=len(run.loader.skipped),
        n_passed=run.n_passed,
        n_traces=run.loop.train_step.n_traces,
        trace_s=run.loop.trace_s,
        config_differs_upstream=files.config_differs_upstream and not is_full and not files.added,
        difference=files.family.difference(files.config),
        unasked=run.unasked,
        features=run.devices.join(run.features.counts),
        cuts=run.cuts,
        stopped_early=run.is_early,
        best=run.best,
        left_off=run.left_off,
        sources=run.sources.uses(),
        devices=run.devices.uses,
    )


def _write_example(run: RunContext) -> tuple[Path | None, str]:
    """Write an image to ask the model about, of the first row that can be read; give it and a question."""
    section = run.recipe.data

    def write(sample: Sample) -> tuple[Path | None, str]:
        sample = run.data.encoder.write_boxes(sample)
        images = [
            models.open_image(
                image,
                sample.source,
                section.image_resize_shape,
                section.max_pixels,
                allow_urls=section.allow_urls,
            )
            for image in sample.images[:1]
        ]
        question = next((turn.text for turn in sample.turns if turn.role == "user"), ANY_QUESTION)
        path = run.paths.folder / EXAMPLE_NAME
        for image in images:
            write_whole(path, image.save)
        try:
            models.check_question(run.backbone.module, run.data.encoder, sample)
        except AnswerError as error:
            run.unasked = str(error)
        return path if images else None, question

    # The run is over and saved: what is wrong with a row was told when it was read.
    rows = run.data.train if run.data.valid is None else run.data.valid
    return next(first_examples(rows, READ_ROWS, write, lambda _, __: None), (None, ANY_QUESTION))
