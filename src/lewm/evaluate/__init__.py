"""Evaluation: prediction, probes, the cost, closed loop, and what they say together."""

from lewm.evaluate.closed_loop import Loop, run_closed_loop, wilson_interval
from lewm.evaluate.cost_order import rank_correlation
from lewm.evaluate.doctor import verdict
from lewm.evaluate.evaluation import Evaluation, evaluate_model, evaluate_run, plan_model, plan_run
from lewm.evaluate.open_loop import plan_once
from lewm.evaluate.own_env import EnvGoal, evaluate_env
from lewm.evaluate.prediction import PredictionReport, measure_prediction
from lewm.evaluate.pretrained import evaluate_pretrained, plan_pretrained
from lewm.evaluate.probe import ProbeReport, measure_probes
from lewm.evaluate.starts import Starts, make_starts

__all__ = [
    "EnvGoal",
    "Evaluation",
    "Loop",
    "PredictionReport",
    "ProbeReport",
    "Starts",
    "evaluate_env",
    "evaluate_model",
    "evaluate_pretrained",
    "evaluate_run",
    "make_starts",
    "measure_prediction",
    "measure_probes",
    "plan_model",
    "plan_once",
    "plan_pretrained",
    "plan_run",
    "rank_correlation",
    "run_closed_loop",
    "verdict",
    "wilson_interval",
]
