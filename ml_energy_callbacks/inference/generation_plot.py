"""A profile of generation as a picture; requires the extra ``plot``."""

from pathlib import Path

from ml_energy_callbacks.inference.generation_results import GenerationProfile
from ml_energy_callbacks.inference.plot import draw_intervals, new_panels
from ml_energy_callbacks.report.picture import save_figure

_STEPS = 50


def plot_generation(profile: GenerationProfile, path: Path) -> None:
    """Draw joules per response against new tokens, for each prompt and batch size, with the law as lines.

    Raises:
        ConfigurationError: matplotlib is missing, or the file cannot be written.
    """
    figure = new_panels(len(profile.laws))
    for law, axes in zip(profile.laws, figure.subplots(1, len(profile.laws), squeeze=False)[0], strict=True):
        cases = [case for case in profile.cases if case.batch_size == law.batch_size]
        most = max(case.new_tokens for case in cases)
        for i, prompt in enumerate(sorted({case.prompt_tokens for case in cases})):
            colour = f"C{i}"
            own = [case for case in cases if case.prompt_tokens == prompt]
            label = f"prompt of {prompt}" + (", held back" if own[0].held_back else "")
            draw_intervals(axes, [(case.new_tokens, case.joules_per_sample) for case in own], label, color=colour, linestyle="")
            counts = [1 + (most - 1) * step / _STEPS for step in range(_STEPS + 1)]
            if law.a is not None:
                axes.plot(counts, [law.joules(prompt, count) for count in counts], color=colour, linewidth=1)
        axes.set(xlabel="new tokens", ylabel=f"J per response, {profile.provenance or 'unknown'}")
        axes.set_title(f"batch size {law.batch_size}; lines: law", fontsize="medium")
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    save_figure(figure, path)
