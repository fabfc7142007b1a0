"""Metrics against the libraries they stand for, called apart on the same texts."""

from __future__ import annotations

import math

import pytest
import rjieba
import sacrebleu
from rouge_score import rouge_scorer
from sklearn.metrics import classification_report, confusion_matrix

from jobs.spec.evaluation import EvaluateSpec
from workloads.evaluate.metrics import METRICS, Row, Settings, load_metric, value_names
from workloads.evaluate.metrics.classification import NO_CLASS, read_label
from workloads.evaluate.metrics.exact_match import normalized
from workloads.generate.answers import Score

ENGLISH = [
    ("The cat sat on the mat.", "The cat is sitting on the mat, isn't it?"),
    ("", "Nothing was said."),
    ("A quick brown fox jumps over the lazy dog", "A quick brown fox jumps over the lazy dog"),
    ("It costs $3.50 today", "It costs 3.50 dollars"),
    ("yes", "No, it is not."),
]
CHINESE = [
    ("我来到北京清华大学。", "我来到了北京大学。"),
    ("今天天气很好", "今天的天气非常好"),
    ("", "是的"),
]


def measured(name: str, pairs: list[tuple[str, str]], **settings: str) -> dict[str, float]:
    metric = load_metric(name, Settings(**settings))  # type: ignore[arg-type]
    for predict, label in pairs:
        metric.add(Row(predict, label, label))
    return metric.measured().values


def test_every_metric_of_the_spec_is_there_and_says_its_names() -> None:
    (literal,) = EvaluateSpec.model_fields["metrics"].annotation.__args__[:1]  # type: ignore[union-attr]
    assert set(literal.__args__) == set(METRICS)
    assert value_names(["loss", "rouge"]) == [
        "loss", "perplexity", "token_acc", "rouge_1", "rouge_2", "rouge_l",
    ]  # fmt: skip


@pytest.mark.parametrize("pairs", [ENGLISH, ENGLISH[:3], ENGLISH[1:2], ENGLISH[-1:]])
def test_bleu_of_words_is_sacrebleus(pairs: list[tuple[str, str]]) -> None:
    predictions, labels = zip(*pairs, strict=True)
    expected = sacrebleu.corpus_bleu(list(predictions), [list(labels)]).score
    assert measured("bleu", pairs)["bleu"] == pytest.approx(expected, abs=1e-9)


def test_bleu_of_characters_is_sacrebleus() -> None:
    pairs = ENGLISH + CHINESE
    predictions, labels = zip(*pairs, strict=True)
    expected = sacrebleu.corpus_bleu(list(predictions), [list(labels)], tokenize="char").score
    assert measured("bleu", pairs, level="char")["bleu"] == pytest.approx(expected, abs=1e-9)


def test_bleu_of_chinese_words_is_that_of_text_cut_beforehand() -> None:
    cut = [(" ".join(rjieba.cut(a)), " ".join(rjieba.cut(b))) for a, b in CHINESE]
    predictions, labels = zip(*cut, strict=True)
    expected = sacrebleu.corpus_bleu(list(predictions), [list(labels)]).score
    assert expected > 0
    assert measured("bleu", CHINESE)["bleu"] == pytest.approx(expected, abs=1e-9)


def test_rouge_of_words_is_rouge_scores() -> None:
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    scores = [scorer.score(label, predict) for predict, label in ENGLISH]
    found = measured("rouge", ENGLISH)
    for theirs, ours in (("rouge1", "rouge_1"), ("rouge2", "rouge_2"), ("rougeL", "rouge_l")):
        expected = 100 * sum(score[theirs].fmeasure for score in scores) / len(ENGLISH)
        assert found[ours] == pytest.approx(expected)


def test_rouge_of_chinese_counts_words_or_characters() -> None:
    # 我 来到 北京 清华大学 against 我 来到 了 北京大学: two of four, four of eight.
    words = measured("rouge", CHINESE[:1])
    assert words["rouge_1"] == pytest.approx(50.0)
    characters = measured("rouge", CHINESE[:1], level="char")
    scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"])
    numbers = {character: str(i) for i, character in enumerate(set("".join(CHINESE[0])))}
    spelled = [" ".join(numbers[c] for c in text) for text in CHINESE[0]]
    expected = scorer.score(spelled[1], spelled[0])
    assert characters["rouge_1"] == pytest.approx(100 * expected["rouge1"].fmeasure)
    assert characters["rouge_l"] == pytest.approx(100 * expected["rougeL"].fmeasure)


def test_words_of_other_scripts_count_too() -> None:
    assert measured("rouge", [("Кошка на коврике", "кошка на столе")])["rouge_1"] > 60


def test_empty_answers_count_and_rows_without_label_do_not() -> None:
    metric = load_metric("rouge", Settings())
    assert metric.add(Row("a", None, None)) == {}
    metric.add(Row("a", "a", None))
    metric.add(Row("", "a", None))
    assert metric.measured().values["rouge_1"] == 50.0
    assert load_metric("bleu", Settings()).measured().values == {}


def test_exact_match_forgives_case_form_and_space_alone() -> None:
    assert normalized(" Ａ  b\n") == normalized("a B")
    assert measured("exact_match", [("Paris ", "paris"), ("Paris.", "paris")]) == {
        "exact_match": 0.5
    }


def test_loss_is_that_of_all_tokens_together() -> None:
    metric = load_metric("loss", Settings())
    assert metric.add(Row("", "x", None, Score(tokens=1, loss_sum=4.0, right=0)))["loss"] == 4.0
    metric.add(Row("", "x", None, Score(tokens=3, loss_sum=2.0, right=3)))
    metric.add(Row("", "x", None))
    assert metric.measured().values == {
        "loss": 1.5, "perplexity": pytest.approx(math.exp(1.5)), "token_acc": 0.75,
    }  # fmt: skip


def test_accuracy_counts_what_could_not_be_compared_as_wrong() -> None:
    metric = load_metric("accuracy", Settings())
    for is_right in (1.0, 0.0, None, 1.0):
        metric.add(Row("4", "4", "4", is_right=is_right))
    metric.add(Row("4", "4", None, is_right=None))
    result = metric.measured()
    assert result.values == {"accuracy": 0.5}
    assert result.details == {"accuracy": {"rows": 4, "not_compared": 1}}


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("positive", "positive"),
        ("  Positive. ", "positive"),
        ("The review is positive.", "positive"),
        ("It is not positive at all", "not positive"),
        ("<answer>negative</answer> though it sounds positive", "negative"),
        ("positive or negative?", None),
        ("unpositive", None),
        ("", None),
        ("情感是正面的", "正面"),
        ("正面和负面", None),
    ],
)
def test_an_answers_class(text: str, label: str | None) -> None:
    assert read_label(text, ("positive", "negative", "not positive", "正面", "负面")) == label


def test_classification_is_scikit_learns() -> None:
    labels = ("good", "bad", "fair")
    right = ["good", "good", "bad", "bad", "fair", "good", "bad"]
    answers = ["good", "It is bad.", "bad", "no idea", "fair", "good", "good or bad"]
    metric = load_metric("classification", Settings(labels=labels))
    for answer, label in zip(answers, right, strict=True):
        metric.add(Row(answer, label, None))
    metric.add(Row("good", "awful", None))
    result = metric.measured()
    found = ["good", "bad", "bad", NO_CLASS, "fair", "good", NO_CLASS]
    report = classification_report(
        right, found, labels=list(labels), output_dict=True, zero_division=0.0
    )
    assert result.values == {
        "class_accuracy": pytest.approx(4 / 7),
        "precision": pytest.approx(report["macro avg"]["precision"]),
        "recall": pytest.approx(report["macro avg"]["recall"]),
        "f1": pytest.approx(report["macro avg"]["f1-score"]),
        "f1_weighted": pytest.approx(report["weighted avg"]["f1-score"]),
    }
    details = result.details["classification"]
    expected = confusion_matrix(right, found, labels=[*labels, NO_CLASS]).tolist()
    assert details["confusion_matrix"] == expected
    assert details["classes"]["bad"]["recall"] == pytest.approx(1 / 3)
    assert details["rows_of_no_label"] == 1
