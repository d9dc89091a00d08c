"""What the studies of `benchmark.design` compare, and the sentences that their tables are read with.

`benchmark.design` imports this module.
"""

from __future__ import annotations

import dataclasses

import pandas as pd
from mdrn.recipe import TrainConfig

from mdrn.model import PRESETS, ModelConfig

LEVELS = (0.0, 75.0)
TINY = ModelConfig(widths=(16, 24, 32))  # what `mdrn_tiny` was when the studies were made
RECIPE_V1 = {"batch_size": 16, "patch_size": 64, "optimizer": "adamw", "learning_rate": 2e-3}  # and TrainConfig's


@dataclasses.dataclass(frozen=True)
class FFDNetConfig:
    """A well-known network trained with our recipe; see `benchmark.networks.FFDNet`."""

    channels: int = 1

    def build(self):
        """Return the network with fresh weights."""
        from benchmark.networks import FFDNet

        return FFDNet(self.channels)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One line of a study.

    Args:
        what: what it changes, for the table.
        model: its network.
        options: training options that differ from the defaults of `TrainConfig`.
        then: what differs from `options` in a second run, which goes on from the first one's weights.
        then_share: the second run's share of the pixels seen.
    """

    what: str
    model: ModelConfig | FFDNetConfig = TINY
    options: dict = dataclasses.field(default_factory=dict)
    then: dict | None = None
    then_share: float = 0.25

    def configs(self, name: str, steps: int) -> list[TrainConfig]:
        """Return the run or two of this candidate; `steps` counts batches of 16 patches of 64 x 64, whatever theirs."""
        shares = [(1.0, self.options)]
        if self.then is not None:
            shares = [(1.0 - self.then_share, self.options), (self.then_share, self.options | self.then)]
        configs = []
        for number, (share, changed) in enumerate(shares):
            options = {"noise_level": LEVELS, "cycle": number, **RECIPE_V1, **changed}
            batch, patch = options["batch_size"], options["patch_size"]
            equal = round(steps * share * 16 * 64**2 / (batch * patch**2))
            configs.append(TrainConfig(preset=name, model=self.model, steps=equal, **options))
        return configs


def _recipe_candidate(what: str, then: dict | None = None, share: float = 0.25, **options) -> Candidate:
    return Candidate(what, options={"batch_size": 4, **options}, then=then, then_share=share)


def _optimizer_candidate(what: str, optimizer: str, learning_rate: float) -> Candidate:
    return Candidate(what, PRESETS["mdrn_tiny"], {"optimizer": optimizer, "learning_rate": learning_rate})


STUDIES: dict[str, dict[str, Candidate]] = {
    "designs": {  # near 0.12 M parameters
        "two_stages": Candidate("reference: two stages, three scales"),
        "plain_u": Candidate("one stage: a plain U", ModelConfig(widths=(24, 32, 48), stages=1)),
        "three_stages": Candidate("three stages", ModelConfig(widths=(16, 16, 24), stages=3)),
        "depth_1": Candidate("three stages that degrade once", ModelConfig(widths=(16, 32), stages=3)),
        "depth_3": Candidate("stages that degrade three times", ModelConfig(widths=(16, 16, 16, 32))),
        "shared": Candidate("two stages sharing weights", ModelConfig(widths=(16, 32, 48), shared=True)),
        "full_entry": Candidate("full-resolution entry", ModelConfig(widths=(8, 16, 16, 32), entry=1)),
        "input_fusion": Candidate(
            "stages joined at their input alone", ModelConfig(widths=TINY.widths, fusion="input")
        ),
        "no_deep_supervision": Candidate("last stage supervised alone", options={"stage_weight": 0.0}),
        "gelu": Candidate("GELU for ReLU", ModelConfig(widths=TINY.widths, activation="gelu")),
        "ffdnet": Candidate("FFDNet, 4 times the parameters", FFDNetConfig()),
    },
    "light": {  # for `mdrn_tiny`: at most 0.12 M parameters and 0.015 of DnCNN's time
        "two_stages": Candidate("two stages", ModelConfig(widths=(16, 24, 32))),
        "no_joint_blocks": Candidate(
            "no blocks where stages join", ModelConfig(widths=(16, 24, 32), joint_blocks=False)
        ),
        "narrow": Candidate("narrower at the second scale", ModelConfig(widths=(16, 16, 32))),
        "u_three_scales": Candidate("plain U", ModelConfig(widths=(16, 32, 48), stages=1)),
        "u_decodes": Candidate(
            "plain U, finest blocks on the way up alone",
            ModelConfig(widths=(24, 32, 48), stages=1, finest_down=False),
        ),
        "finest_up": Candidate(
            "two stages, finest blocks on the way up alone",
            ModelConfig(widths=(16, 24, 32), finest_down=False, fusion="coarse", corrects="noisy"),
        ),
        "u_four_scales": Candidate("plain U", ModelConfig(widths=(16, 16, 32, 48), stages=1)),
    },
    "batch": {
        "reference": Candidate("AdamW 2e-3, batch 16 of 64 x 64, L1"),
        "batch_4": Candidate("batch 4", options={"batch_size": 4}),
        "batch_8": Candidate("batch 8", options={"batch_size": 8}),
        "batch_32": Candidate("batch 32", options={"batch_size": 32}),
        "rate_1e-3": Candidate("learning rate 1e-3", options={"learning_rate": 1e-3}),
        "rate_4e-3": Candidate("learning rate 4e-3", options={"learning_rate": 4e-3}),
        "batch_8_rate_4e-3": Candidate("batch 8, 4e-3", options={"batch_size": 8, "learning_rate": 4e-3}),
        "batch_4_rate_4e-3": Candidate("batch 4, 4e-3", options={"batch_size": 4, "learning_rate": 4e-3}),
    },
    "recipe": {  # what else, with the batch that the study before chose
        "small_batch": _recipe_candidate("AdamW 2e-3, batch 4 of 64 x 64, L1"),
        "patch_48": _recipe_candidate("patches of 48 x 48", patch_size=48),
        "patch_96": _recipe_candidate("patches of 96 x 96", patch_size=96),
        "growing": _recipe_candidate("48 x 48, then 96 x 96", {"patch_size": 96}, 0.5, patch_size=48),
        "lion": _recipe_candidate("Lion 3e-4", optimizer="lion", learning_rate=3e-4, weight_decay=1e-3),
        "muon": _recipe_candidate("Muon 1e-2", optimizer="muon", learning_rate=1e-2),
        "charbonnier": _recipe_candidate("Charbonnier loss", loss="charbonnier"),
        "mse": _recipe_candidate("squared error", loss="mse"),
        "mse_at_end": _recipe_candidate("squared error in the last quarter", {"loss": "mse", "learning_rate": 5e-4}),
        "ema_0.99": _recipe_candidate("shorter running mean", ema_decay=0.99),
        "constant": _recipe_candidate("constant learning rate after warm-up", final_learning_rate=1.0),
        "two_cycles": _recipe_candidate("half the steps twice", {"learning_rate": 1e-3}, 0.5),
        "no_decay": _recipe_candidate("no weight decay", weight_decay=0.0),
        "extra_data": _recipe_candidate("BSDS500 and extra photographs", data=("bsds", "extra")),
    },
    "optimizer": {
        "adamw": _optimizer_candidate("AdamW 2e-3", "adamw", 2e-3),
        "adamw_4e-3": _optimizer_candidate("AdamW 4e-3", "adamw", 4e-3),
        "cautious": _optimizer_candidate("cautious AdamW 2e-3", "cadamw", 2e-3),
        "muon_2e-3": _optimizer_candidate("Muon 2e-3", "muon", 2e-3),
        "muon_4e-3": _optimizer_candidate("Muon 4e-3", "muon", 4e-3),
        "muon_8e-3": _optimizer_candidate("Muon 8e-3", "muon", 8e-3),
        "nesterov": _optimizer_candidate("Muon 4e-3, Nesterov's momentum", "nmuon", 4e-3),
        "adamuon": _optimizer_candidate("AdaMuon 4e-3", "adamuon", 4e-3),
    },
}


def gain(rows: pd.DataFrame, name: str, over: str) -> str:
    """Return how many dB candidate `name` is above `over` at levels 15, 25 and 50: '+0.09 / +0.07 / +0.07 dB'."""
    columns = [column for column in rows if column.startswith("psnr_")]
    return " / ".join(f"{rows.loc[name, column] - rows.loc[over, column]:+.2f}" for column in columns) + " dB"


def _designs(rows: pd.DataFrame) -> str:
    staged = [name for name in rows.index if not name.startswith(("plain_u", "ffdnet", "two_stages"))]
    others = "; ".join(f"{rows.loc[name, 'what']} {gain(rows, name, 'two_stages')}" for name in staged)
    ours, plain = rows.loc["two_stages"], rows.loc["plain_u"]
    duration = plain.time_against_dncnn / ours.time_against_dncnn
    verdict = "do not earn" if plain.psnr_25 >= ours.psnr_25 else "earn"
    text = (
        f"**At equal parameters and equal patches the stages {verdict} their place in PSNR**: a plain U is "
        f"{gain(rows, 'plain_u', 'two_stages')} above two stages (levels 15 / 25 / 50) and takes "
        f"{duration:.2f} times as long. What two stages give is an image after each stage and a receptive field of "
        f"{ours.radius:.0f} instead of {plain.radius:.0f} pixels. The presets keep them, because removing noise "
        f"progressively is what the abstract describes, and because two stages are ahead in the long runs tried "
        f"(table `long`). Who wants to try takes `ModelConfig(stages=1)`. Against two stages: {others}."
    )
    if "full_entry" in rows.index:
        slower = rows.loc["full_entry", "time_against_dncnn"] / ours.time_against_dncnn
        text += (
            f" Full resolution throughout takes {slower:.1f} times the time of two stages at half of it, more than "
            "`mdrn_tiny` may take; per parameter it is the better use of computation, worth a long run for `mdrn`."
        )
    theirs = [name for name in rows.index if name.startswith("ffdnet")]
    if theirs:
        best = rows.loc[theirs].psnr_25.idxmax()
        parameters, duration = (rows.loc[best, c] / ours[c] for c in ("parameters", "time_against_dncnn"))
        text += (
            f" FFDNet trained alike, with {parameters:.1f} times the parameters and {duration:.0f} times the time: "
            f"{gain(rows, best, 'two_stages')}; plain layers start slowly, and a short run says no more than that."
        )
    return text


_LIGHTER = {
    "finest_up": "blocks at the finest scale on the way up alone, and corrections of the noisy image",
    "no_joint_blocks": "no blocks where stages join",
    "narrow": "a narrower second scale",
    "u_three_scales": "one narrower stage",
}


def _light(rows: pd.DataFrame) -> str:
    within = rows[rows.time_against_dncnn <= 0.015]
    best = within.psnr_25.idxmax() if len(within) else rows.time_against_dncnn.idxmin()
    taken, ours = (rows.loc[name, "time_against_dncnn"] for name in (best, "two_stages"))
    changes = "; ".join(
        f"{what} {gain(rows, name, 'two_stages')} at {rows.loc[name, 'time_against_dncnn']:.4f}"
        for name, what in _LIGHTER.items()
    )
    text = (
        f"`mdrn_tiny` may take 0.015 of DnCNN's time; two stages with all their blocks take {ours:.4f}. What making "
        f"them lighter costs at equal patches: {changes}. `mdrn_tiny` is `finest_up` whose second stage, which sees "
        "the first one's features at each scale, goes down without blocks (0.081 M parameters in table `long`)."
    )
    if best != "finest_up":
        text += (
            f" In so short a run the best within the limit is `{best}` ({rows.loc[best, 'what']}, {taken:.4f}): "
            f"{gain(rows, best, 'two_stages')}. With one stage its receptive field is half as wide, and in the "
            "long runs tried two stages are ahead (table `long`)."
        )
    return text


def _against(reference: str):
    """Return a function that says how far every candidate of a study is from `reference`."""

    def conclude(rows: pd.DataFrame) -> str:
        others = "; ".join(f"{rows.loc[n, 'what']} {gain(rows, n, reference)}" for n in rows.index if n != reference)
        return f"Against the reference ({rows.loc[reference, 'what']}), at equal pixels seen: {others}."

    return conclude


V1 = (
    " **Recipe v1** was AdamW at 2e-3 with cosine decay, batches of 16 of "
    "64 x 64, L1, EMA 0.999, BSDS500. Smaller batches and patches win in these short runs; no long run tried with "
    "them is ahead (table `long`, of other networks too). What helped there was another run, on patches of 128 x 128."
)

V2 = (
    " **Recipe v2**, the defaults of `mdrn.recipe.TrainConfig`, is recipe v1 with Muon at 4e-3: weights move by their "
    "momentum orthogonalised, biases as AdamW moves them. The gain is that of a short run; table `long` has long ones."
)


def _recipe(rows: pd.DataFrame) -> str:
    return _against("small_batch")(rows) + V1


def _optimizer(rows: pd.DataFrame) -> str:
    return _against("adamw")(rows) + V2


def _step(rows: pd.DataFrame) -> str:
    shares = ", ".join(f"{row['convolution (%)']:.0f} % in `{row['network']}`" for _, row in rows.iterrows())
    return f"Convolutions are {shares} of a training step's operator time."


REFERENCES = {  # without these rows there is no conclusion
    "designs": {"two_stages", "plain_u"},
    "light": {"two_stages", *_LIGHTER},
    "batch": {"reference"},
    "recipe": {"small_batch"},
    "optimizer": {"adamw"},
}
CONCLUSIONS = {
    "designs": _designs,
    "light": _light,
    "batch": _against("reference"),
    "recipe": _recipe,
    "optimizer": _optimizer,
    "step": _step,
}
