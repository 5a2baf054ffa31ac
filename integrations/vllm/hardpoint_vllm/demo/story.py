"""What is done with one model, in order, and what must come of each step."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardpoint_vllm.demo.answers import Answers, compare
from hardpoint_vllm.demo.checks import Check, ModelReport, Timing
from hardpoint_vllm.demo.child import Child, DemoFailed
from hardpoint_vllm.demo.lessons import FIRST_STEPS, STEPS
from hardpoint_vllm.demo.recipes import VOCABULARY, Recipe
from hardpoint_vllm.demo.screen import Screen, Step

PROMPTS, PROMPT_TOKENS, ANSWER_TOKENS = 8, 40, 24
MUST_DIFFER = 0.5  # of the compared positions, between old and new weights
_START_DEADLINE, _STEP_DEADLINE, _SYNC_DEADLINE = 300.0, 300.0, 60.0


@dataclass(frozen=True)
class Plan:
    """How to run the demo.

    Attributes:
        folder: for checkpoints and logs of this model.
        environment: of both children, on top of this process's own.
        seed: of weights and prompts.
        sabotage: fault planted in the first update, to see the demo fail; None for none.
    """

    folder: Path
    environment: dict[str, str]
    seed: int = 0
    sabotage: str | None = None


class Story:
    """One model's run. Fills `report` as it goes, so that what was found before a failure is not lost."""

    def __init__(self, recipe: Recipe, plan: Plan, screen: Screen) -> None:
        self.report = ModelReport(recipe.name, recipe.title)
        self._recipe = recipe
        self._plan = plan
        self._screen = screen
        numbers = random.Random(plan.seed)
        self._prompts = [[numbers.randrange(VOCABULARY) for _ in range(PROMPT_TOKENS)] for _ in range(PROMPTS)]

    def run(self) -> ModelReport:
        """Do it all. A step that cannot be made ends the run and is the report's `failure`."""
        self._plan.folder.mkdir(parents=True, exist_ok=True)
        try:
            with self._child("trainer") as trainer, self._child("engine") as engine:
                self._tell(trainer, engine)
        except DemoFailed as failure:
            self.report.failure = str(failure)
        (self._plan.folder / "report.json").write_text(json.dumps(self.report.to_dict(), indent=2))
        return self.report

    def _tell(self, trainer: Child, engine: Child) -> None:
        self._start(trainer, engine)
        reference = self._reference(trainer, 0)
        answers = self._answers(engine)
        self._same("start", "stock vLLM answers as transformers does", reference, answers)
        for lesson in (1, 2):
            self._teach(trainer, lesson, STEPS)
            self._update(trainer, engine, f"weights {lesson} sent", self._plan.sabotage if lesson == 1 else None)
            reference, before = self._reference(trainer, lesson), answers
            answers = self._answers(engine)
            self._same(
                f"update-{lesson}", f"update {lesson}: answers as transformers with the new weights", reference, answers
            )
            self._new(f"new-{lesson}", f"update {lesson}: at least half of the tokens are new", before, answers)
        self._broken(trainer, engine, answers)
        self._swapped(trainer, engine, reference)
        self._update(trainer, engine, "right weights sent again", None)
        self._same("repair", "the next good update puts it right", reference, self._answers(engine))

    def _start(self, trainer: Child, engine: Child) -> None:
        warm = engine.ask("warm")
        with self._step("checkpoint made and trained") as step:
            made = trainer.wait(trainer.ask("make", recipe=self._recipe.name, seed=self._plan.seed), _START_DEADLINE)
            loss = self._taught(trainer, 0, FIRST_STEPS, step)
            step.found(f"{made['parameters'] / 1e6:.1f} M parameters, {loss}")
        with self._step("stock vLLM started") as step:
            engine.wait(warm, _START_DEADLINE)
            asked = engine.ask(
                "load", folder=str(self._folder(0)), length=PROMPT_TOKENS + ANSWER_TOKENS, sequences=PROMPTS
            )
            facts = engine.wait(asked, _START_DEADLINE)
            self.report.facts.update(facts)
            step.found(f"vLLM {facts['vllm']}, {facts['platform'].rsplit('.', 1)[-1]}")
            if not facts["platform"].startswith("hardpoint_vllm."):
                raise DemoFailed(
                    f"vLLM runs on platform {facts['platform']}, not on one of hardpoint: the plugin was not "
                    "loaded. Check VLLM_PLUGINS and HARDPOINT_BACKEND with `hardpoint doctor`."
                )
        with self._step("trainer and engine met") as step:
            info = trainer.wait(trainer.ask("listen", deadline=_SYNC_DEADLINE), _STEP_DEADLINE)
            waiting = [(trainer, trainer.ask("connect")), (engine, engine.ask("join", init_info=info))]
            for child, asked in waiting:
                child.wait(asked, _SYNC_DEADLINE + 10)
            step.found(f"{info['host']}:{info['port']}, two processes")

    def _teach(self, trainer: Child, lesson: int, steps: int) -> None:
        with self._step(f"{steps} optimiser steps in the trainer") as step:
            step.found(self._taught(trainer, lesson, steps, step))

    def _taught(self, trainer: Child, lesson: int, steps: int, step: Step) -> str:
        asked = trainer.ask("teach", lesson=lesson, steps=steps, folder=str(self._folder(lesson)))
        loss = trainer.wait(asked, _STEP_DEADLINE, step.progress)
        return f"loss {loss['loss_before']:.2f} to {loss['loss_after']:.2f}"

    def _update(self, trainer: Child, engine: Child, title: str, fault: str | None) -> None:
        with self._step(title) as step:
            sent, taken = self._publish(trainer, engine, fault, step)
            if not (sent["committed"] and taken["updated"]):
                raise DemoFailed(f"The update did not commit. Trainer: {sent['reason']} Engine: {taken['reason']}")
            step.found(f"{sent['tensors']} tensors, {sent['bytes'] / 1e6:.1f} MB, committed")

    def _publish(self, trainer: Child, engine: Child, fault: str | None, step: Step) -> tuple[Any, Any]:
        taking = engine.ask("update")
        sending = trainer.ask("publish", fault=fault)
        return trainer.wait(sending, _STEP_DEADLINE, step.progress), engine.wait(taking, _STEP_DEADLINE)

    def _broken(self, trainer: Child, engine: Child, before: Answers) -> None:
        with self._step("an update that lacks a tensor") as step:
            sent, taken = self._publish(trainer, engine, "drop", step)
            refused = not sent["committed"] and not taken["updated"]
            step.found("refused" if refused else "NOT refused")
        self._screen.quote(sent["reason"] or taken["reason"])
        self._check("refusal", "an incomplete update is refused", refused, "refused" if refused else "it was taken")
        same = compare(before, self._answers(engine), allow_ties=False)
        self._check("untouched", "after it the old weights answer", same.same, str(same))

    def _swapped(self, trainer: Child, engine: Child, reference: Answers) -> None:
        self._update(trainer, engine, "control: experts 0 and 1 swapped", "swap")
        wrong = compare(reference, self._answers(engine))
        found = f"{wrong.differing:.0%} of tokens differ" if not wrong.same else "no difference seen"
        self._check("control", "swapped experts are seen as a difference", not wrong.same, found)

    def _same(self, key: str, claim: str, reference: Answers, answers: Answers) -> None:
        result = compare(reference, answers)
        self.report.facts[f"{key}_log_prob_gap"] = round(result.gap, 4)
        self._check(key, claim, result.same, str(result) if result.same else f"{result}; {result.first}")

    def _new(self, key: str, claim: str, before: Answers, after: Answers) -> None:
        differing = compare(before, after, allow_ties=False).differing
        self._check(key, claim, differing >= MUST_DIFFER, f"{differing:.0%} of tokens differ")

    def _check(self, key: str, claim: str, passed: bool, found: str) -> None:
        check = Check(key, claim, passed, found)
        self.report.checks.append(check)
        self._screen.check(check)

    def _reference(self, trainer: Child, lesson: int) -> Answers:
        with self._step("transformers answers") as step:
            asked = trainer.ask(
                "reference", folder=str(self._folder(lesson)), prompts=self._prompts, tokens=ANSWER_TOKENS
            )
            step.found(f"{PROMPTS} prompts, {ANSWER_TOKENS} tokens each")
            return _answers(trainer.wait(asked, _STEP_DEADLINE))

    def _answers(self, engine: Child) -> Answers:
        with self._step("vLLM answers") as step:
            asked = engine.ask("generate", prompts=self._prompts, tokens=ANSWER_TOKENS)
            step.found(f"{PROMPTS} prompts, {ANSWER_TOKENS} tokens each")
            return _answers(engine.wait(asked, _STEP_DEADLINE))

    @contextmanager
    def _step(self, title: str) -> Iterator[Step]:
        started = time.monotonic()
        with self._screen.step(title) as step:
            yield step
        self.report.timings.append(Timing(title, round(time.monotonic() - started, 3)))

    def _folder(self, lesson: int) -> Path:
        return self._plan.folder / f"weights-{lesson}"

    def _child(self, name: str) -> Child:
        return Child(name, f"hardpoint_vllm.demo.{name}", self._plan.folder / f"{name}.log", self._plan.environment)


def _answers(data: dict[str, Any]) -> Answers:
    runners_up = [[{int(token): value for token, value in best} for best in row] for row in data["runners_up"]]
    return Answers(data["tokens"], data["chosen"], runners_up)
