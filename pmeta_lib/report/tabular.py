"""The numbers behind the tabular claims (C1, C2, the headline), from `data/results/tabular`."""

from pathlib import Path

import numpy as np
import pandas as pd

from pmeta_lib.report.statistics import paired_interval, spearman_interval


def load(folder: Path) -> dict[str, pd.DataFrame]:
    """The stored tables by name (comparison, headline, conflict, lambda, adaptation, convergence, theory)."""
    return {p.stem: pd.read_parquet(p) for p in sorted(Path(folder).glob("*.parquet"))}


def summarise(tables: dict[str, pd.DataFrame]) -> dict:
    """The numbers behind the claims, each with its 95 % interval [mean, low, high]; seeds are the units."""
    out: dict = {}
    both = [tables[k] for k in ("headline", "conflict") if k in tables]
    if both:
        t = pd.concat(both)
        out["headline"] = []
        for (noisy, h), part in t.groupby(["noisy", "h"]):
            wide = part.pivot(index="seed", columns="learner", values="deployed")
            for ours in [c for c in wide if c.startswith("pmeta")]:
                for other in [c for c in wide if not c.startswith("pmeta")]:
                    rng = np.random.default_rng(0)
                    out["headline"].append(
                        {"gradients": "sampled" if noisy else "exact", "h": h, "a": ours, "b": other,
                         "difference": paired_interval(wide[ours].to_numpy(), wide[other].to_numpy(), rng)}
                    )  # fmt: skip
    if "conflict" in tables:
        t = tables["conflict"]
        h = np.sort(t.h.unique())
        wide = {n: p.pivot(index="seed", columns="h", values="deployed").to_numpy() for n, p in t.groupby("learner")}
        rate = t[t.learner == "joint"].pivot(index="seed", columns="h", values="conflict").to_numpy()
        out["conflict"] = {"conflict_at_joint": spearman_interval(h, rate, np.random.default_rng(0))}
        for name in ("joint", "maml"):
            deficit = wide["independent"] - wide[name]
            out["conflict"][f"deficit_{name}"] = spearman_interval(h, deficit, np.random.default_rng(0))
    if "convergence" in tables:
        last = tables["convergence"].sort_values("round").groupby(["family", "tau", "variant", "seed"]).last()
        grouped = last.groupby(["family", "tau", "variant"])
        out["convergence"] = [
            {"family": f, "tau": tau, "variant": v, "steepest": p.slope.min(), "flattest": p.slope.max(),
             "largest_rise_of_potential": p.largest_rise.max(), "true_norm": p.true_norm.median()}
            for (f, tau, v), p in grouped
        ]  # fmt: skip
    if "theory" in tables:
        t = tables["theory"]
        out["theory"] = [
            {
                "statement": s,
                "runs": len(p),
                "met": int(p.met.sum()),
                "violations": int((p.holds.eq(False)).sum()),
            }
            for s, p in t.groupby("statement")
        ]
    return out
