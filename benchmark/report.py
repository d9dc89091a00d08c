"""Everything pretty in a results folder, from its rows alone: the same rows give the same bytes.

`README.md` has the main tables and plots on two screens; pages by topic and LaTeX tables are in `tables/`. What is
written here is never edited by hand. `run` imports this module.
"""

from pathlib import Path

from benchmark import tables
from benchmark.drawing import Figure
from benchmark.figures import STUDY, all_figures, times_the_steps, validation_ends
from benchmark.plan import STUDY_STEPS
from benchmark.rows import RELEASE
from benchmark.summary import GAINS, SUMMARY, Results, as_csv, load
from benchmark.tables import COLOUR, GREY, QUOTED, Table
from benchmark.testsets import SETS
from mdrn.files.writing import write_atomically

README, TABLES, FIGURES = "README.md", "tables", "figures"
BEGIN, END = "<!-- {}: written by `python -m benchmark.run`, do not edit -->", "<!-- end of {} -->"
_SHOWN = ("psnr_against_cpu_time", "gain_against_level")  # on the first page, the first three that are there
_SHOWN += ("validation_psnr_against_steps_mdrn_tiny", "psnr_against_parameters")
_NOTE = (
    "PSNR in dB at noise levels 15 / 25 / 50; unclipped Gaussian noise, seed 0 for every image, output rounded to 8 "
    f"bits. ms: 512 x 512 on the CPU. *{tables.AS_PUBLISHED.capitalize()}*: quoted, not measured here."
)
_PREFACE = """# Results

Written by `python -m benchmark.run`, and by `python -m benchmark.run --report-only` from the rows alone; do not edit.
Numbers of an independent implementation made from the paper's abstract: none of them is the paper's. A difference of
0.02 dB on Set12 is the noise of a training seed.
"""
_DATA = {
    "summary.csv": "every number",
    "gains.csv": "every comparison",
    "rows": "every image",
    "evaluations.csv": "how its numbers came about",
    "runs.csv": "what training cost",
    "curves": "validation on the way",
    "speed.csv": "the timings",
    "tables": "the tables as LaTeX too",
}


def write(out: Path) -> list[Path]:
    """Write summary, README, pages, LaTeX tables and figures into a results folder.

    What an earlier report wrote into `tables` and `figures` and this one does not make is deleted. If rows are damaged,
    nothing is written. Returns the files written, README.md first.
    """
    results = load(out)
    pages, figures = _pages(results), all_figures(results)
    texts = {out / README: _readme(out, results, pages, figures)}
    texts |= {out / SUMMARY: as_csv(results.summary), out / GAINS: as_csv(results.gains)}
    for name, (title, made) in pages.items():
        shown = [_drawn(figure, f"../{FIGURES}") for figure in figures if _page_of(figure.name) == name]
        texts[out / TABLES / f"{name}.md"] = "\n".join([f"# {title}\n", *(table.markdown() for table in made), *shown])
        texts |= {out / TABLES / f"{table.name}.tex": table.latex() for table in made}
    content = {path: text.encode() for path, text in texts.items()}
    content |= {out / FIGURES / f"{figure.name}.png": figure.png for figure in figures}
    for path, data in content.items():
        write_atomically(path, data)
    for folder in (TABLES, FIGURES):
        for path in (out / folder).glob("*"):
            if path.suffix in (".md", ".csv", ".tex", ".svg", ".png") and path not in content:
                path.unlink()
    return list(content)


def white_noise(results: Results) -> str:
    """Return the main tables as Markdown: grey, with published methods, and colour."""
    made = [tables.overview(results, GREY, "grey", QUOTED), tables.overview(results, COLOUR, "colour")]
    return "\n\n".join([*(table.grid() for table in made if table), *([_NOTE] if any(made) else [])])


def photographs(results: Results) -> str:
    """Return the first table of real photographs as Markdown, or nothing without rows."""
    made = [table for name in SETS if (table := tables.photographs(results, name))]
    return "\n\n".join([made[0].grid(), f"{made[0].title}. {' '.join(made[0].notes)}"]) if made else ""


def update_readme(readme: Path, out: Path) -> bool:
    """Put what the rows say between the marks of a README; return whether there are marks."""
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    results, changed, found = load(out), text, False
    for name, make in BLOCKS.items():
        begin, end = BEGIN.format(name), END.format(name)
        if begin in changed and end in changed:
            head, _, rest = changed.partition(begin)
            changed, found = f"{head}{begin}\n{make(results)}\n{end}{rest.partition(end)[2]}", True
    if changed != text:
        write_atomically(readme, changed.encode())
    return found


def hmds_in_words(results: Results) -> str:
    """Return in up to three sentences what HMDS gives, from the comparisons of its plan."""
    gains = results.gains[(results.gains.plan == STUDY) & (results.gains.arm == "")]
    gains = gains[(gains.strategy == "hmds") & (gains["set"] == "BSD68")]
    if gains.empty:
        return (
            f"Not measured yet: `python -m benchmark.run --preset {STUDY}` trains plain and distilled networks from "
            "scratch for the same number of steps and fills in this section."
        )
    at_level = gains[gains.level == gains.level.max()]
    common = min(at_level.steps.mode(), key=lambda steps: abs(steps - STUDY_STEPS[1]))

    def told(part) -> str:
        return " and ".join(
            f"{line.gain:+.3f} dB ({line.low:+.3f} to {line.high:+.3f}) for `{line.size}`"
            + (" (one seed)" if len(line.seeds.split()) == 1 else "")
            for line in part.itertuples()
        )

    of_levels = gains[gains.steps == common].groupby("level")
    by_level = ", ".join([f"{told(part)} at level {level:g}" for level, part in of_levels][::-1])
    sentences = [f"On BSD68, after {common:,.0f} steps from scratch with squared error, `hmds` is worth {by_level}."]
    if len(others := at_level[at_level.steps != common]):
        by_steps = [f"{told(part)} after {count:,.0f}" for count, part in others.groupby("steps")]
        sentences.append(f"With other lengths of training it is {', and '.join(by_steps)} steps.")
    factors = {size: times_the_steps(ends) for size, ends in validation_ends(results).items()}
    needed = [f"{f[1]:.1f} times the {f[0]:,.0f} steps (`{size}`)" for size, f in factors.items() if f]
    if needed:
        sentences.append(f"To be as good on the validation images, plain training needs {' and '.join(needed)}.")
    return " ".join(sentences)


BLOCKS = {"photographs": photographs, "white noise": white_noise, "hmds": hmds_in_words}


def _pages(results: Results) -> dict[str, tuple[str, list[Table]]]:
    """Return the pages by topic: name -> title and tables; empty ones are left out."""
    summary = results.summary
    plans = [p for p in dict.fromkeys([RELEASE, *summary.plan]) if p not in ("baselines", "published")]
    protocols = sorted(set(summary.protocol))
    quality = [tables.quality(results, plan, name, p) for plan in plans for name in SETS for p in protocols]
    distilled = [tables.distillation(results, plan, arms) for arms in (False, True) for plan in plans]
    trained = [tables.training(results, plan) for plan in dict.fromkeys(results.runs.plan)]
    made = {
        "quality": ("Quality on the test sets", [*quality, tables.stages(results), tables.networks(results)]),
        "distillation": ("What distillation gives", distilled),
        "photographs": ("Photographs", [tables.photographs(results, name) for name in SETS]),
        "noise_level": ("The noise level, estimated", [tables.known_or_estimated(results), tables.estimator(results)]),
        "training": ("What training cost and gave", trained),
        "speed": ("Speed", tables.speed(results)),
    }
    kept = {name: (title, [table for table in found if table]) for name, (title, found) in made.items()}
    return {name: page for name, page in kept.items() if page[1]}


def _page_of(figure: str) -> str:
    """Return the page that shows a figure."""
    if figure.startswith(("validation", "gain")):
        return "training" if "minutes" in figure else "distillation"
    return "speed" if figure.startswith("speed") else "quality"


def _drawn(figure: Figure, folder: str) -> str:
    return f"![{figure.caption}]({folder}/{figure.name}.png)\n\n{figure.caption}\n"


def _readme(out: Path, results: Results, pages: dict, figures: list) -> str:
    parts = [_PREFACE, white_noise(results), ""]
    if "photographs" in pages:
        parts += ["## Photographs\n", photographs(results), ""]
    parts += ["## What HMDS gives\n", hmds_in_words(results), ""]
    there = {figure.name: figure for figure in figures}
    shown = [there[name] for name in _SHOWN if name in there][:3]
    parts += [_drawn(figure, FIGURES) for figure in shown]
    links = [f"- [{title}]({TABLES}/{name}.md)" for name, (title, _) in pages.items()]
    there = [name for name in _DATA if (out / name).exists() or name in (SUMMARY, GAINS, TABLES)]
    data = [f"- `{name}`: {_DATA[name]}" for name in there]
    return "\n".join([*parts, "## More\n", *links, "", "## Data\n", *data, ""])
