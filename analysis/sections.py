"""The tables as items of the page: each says what it needs, and what is missing with the command that brings it."""

from analysis import ablation_table, efficiency_table, literature, search_table, significance_table
from analysis.items import Context, Missing, Product
from analysis.published import load_published
from analysis.significance_table import find_pairs

FULL_SCALE = "python pipelines/ablate_frames.py sweeps/ablation_frames.yaml"
SEARCH = "python pipelines/tune_hyperparameters.py"
ABLATION = "python pipelines/ablate_frames.py"


def ablation(context: Context) -> Product | Missing:
    """Make the ablation table."""
    if context.results is None:
        return context.no_runs()
    if context.results.search is not None:
        return Missing(f"{context.sweep} is a search, not an ablation", ABLATION)
    product = context.table(ablation_table.build(context.results), ablation_table.NAME)
    if not context.results.complete and context.results.expected is not None:
        product.missing.append(Missing(f"{context.sweep}: {context.results.progress()}", context.command))
    return product


def significance(context: Context) -> Product | Missing:
    """Make the table of pairs."""
    if context.results is None:
        return context.no_runs()
    if context.results.search is not None:
        return Missing(f"{context.sweep} is a search, not an ablation", ABLATION)
    if not any(pair.found for comparison in context.comparisons for pair in find_pairs(comparison)):
        return context.no_runs("no two frames with test predictions")
    return context.table(significance_table.build(context.results), significance_table.NAME)


def efficiency(context: Context) -> Product | Missing:
    """Make the table of speed and size."""
    if context.results is None:
        return context.no_runs()
    product = context.table(efficiency_table.build(context.results), efficiency_table.NAME)
    presets = {trial.config.model.num_angl for trial in context.results.trials if trial.config.model.frame != "none"}
    if 16 not in presets:
        command = f"{context.command}   # with model.preset: [default, lightweight] in its grid"
        product.missing.append(Missing(f"{context.sweep}: no trial with the lightweight setting", command))
    return product


def search(context: Context) -> Product | Missing:
    """Make the table of a hyperparameter search."""
    if context.results is None or not search_table.searched(context.results):
        return Missing(f"{context.sweep} is no hyperparameter search", f"{SEARCH}, then --sweep hpo_sample")
    return context.table(search_table.build(context.results), search_table.NAME)


def jarvis(context: Context) -> Product:
    """Make the table of JARVIS."""
    return _literature(context, "jarvis")


def mp(context: Context) -> Product:
    """Make the table of Materials Project."""
    return _literature(context, "mp")


def oqmd(context: Context) -> Product:
    """Make the table of OQMD."""
    return _literature(context, "oqmd")


def _literature(context: Context, dataset: str) -> Product:
    product = context.table(literature.build(dataset, context.results), f"{dataset}_table")
    published = load_published(dataset)
    assert published is not None, f"{dataset} is one of the paper's data sets"
    done = {c.task for c in context.comparisons if c.dataset == dataset and c.trials}
    if lacking := [task.replace("_", " ") for task in published.tasks if task not in done]:
        product.missing.append(Missing(f"no trial of ours on {', '.join(lacking)}", FULL_SCALE))
    return product
