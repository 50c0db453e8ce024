"""Evaluation with an endpoint: a question that it rejects is unscored, and the others continue."""

from pathlib import Path

from hart_studio.evaluation.config import EvaluationConfig, read_config
from hart_studio.evaluation.job import prepare_run, run_evaluation
from hart_studio.evaluation.results import load_evaluation
from hart_studio.models.model_loading import load_chat_model
from hart_studio.prompts import GROUNDING_INSTRUCTION
from tests.fake_endpoint import Answer, Seen, serving
from tests.unit.evaluation.conftest import QUESTIONS
from tests.unit.models.served import settings_of

KEY = "sk-evaluation-0123456789abcdef"


def test_a_served_model_is_measured_question_by_question(config: EvaluationConfig, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    lines = (Path(config.path) / "samples.jsonl").read_text().splitlines()
    bad = lines[3].split('"question": "')[1].split('"')[0]
    hit = sum(f'"question": "{bad}"' in line for line in lines)

    def script(seen: Seen) -> Answer:
        if bad in seen.text:
            return Answer(status=400, body=b'{"error": {"message": "this one is too long"}}')
        text = '[{"bbox_2d": [0, 0, 500, 1000], "label": "x"}]' if GROUNDING_INSTRUCTION in seen.text else "\\boxed{A}"
        return Answer((text,))

    with serving(script) as server:
        settings = settings_of(server, model="hart", concurrency=4)
        layout = prepare_run(tmp_path / "runs", config.model_copy(update={"served": settings, "title": ""}))
        assert not run_evaluation(layout, lambda given: load_chat_model(given.model_name, served=given.served))
        assert server.most_at_once <= 4
    evaluation = load_evaluation(layout)
    failed = [record for record in evaluation.records if record.error]
    assert (len(evaluation.records), len(failed)) == (QUESTIONS, hit)
    assert all("too long" in record.error and record.question == bad for record in failed)
    assert all(record.value("crops_only") in (0.0, 1.0) for record in evaluation.records if not record.error)
    assert (evaluation.title, evaluation.model) == ("hart", f"hart at {server.url}")
    assert read_config(layout).served == settings
    written = b"".join(path.read_bytes() for path in layout.folder.rglob("*") if path.is_file())
    assert KEY.encode() not in written
