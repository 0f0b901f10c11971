"""From a fleet file to the order for a training run: which recipe, base and rows, and whether what comes of it could be served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onecard.fleet.loader import LoadedFleet
    from onecard.fleet.recipe import Recipe
    from onecard.fleet.schema import AgentSpec
    from onecard.training.order import TrainingOrder

LOADABLE = (
    "none",
    "int8",
    "nf4",
)  # what the in-process engine serves, where an adapter must meet the weights it was trained on


def order_of(loaded: LoadedFleet, agent: str, limit_rows: int | None) -> TrainingOrder:
    """What is asked for, without the places of the run. FleetError for an agent that cannot be trained."""
    from onecard.cli.data import missing_part
    from onecard.weights.inventory import fingerprint, resolve

    name, recipe = trainable(loaded, agent)
    spec = loaded.agent(agent)
    model = loaded.fleet.models[spec.model]
    data_file, folder = loaded.data_file(agent), resolve(model.id, loaded.folder)
    try:
        from onecard.training.order import TrainingOrder
    except ModuleNotFoundError as error:
        raise missing_part(error) from error
    return TrainingOrder(
        agent=agent,
        name=name,
        base_id=model.id,
        base_folder=folder,
        base_fingerprint=fingerprint(folder),
        recipe=recipe,
        data_file=data_file,
        output=Path(),
        presets=spec.presets,
        limit_rows=limit_rows,
        suite_file=suite_file(loaded, agent),
    )


def suite_file(loaded: LoadedFleet, agent: str) -> Path | None:
    """The rows the adapter will be judged by, which must not be trained on."""
    suite = loaded.agent(agent).suite
    return loaded.existing(suite.data, f"agents.{agent}.suite.data") if suite else None


def trainable(loaded: LoadedFleet, agent: str) -> tuple[str, Recipe]:
    """The adapter's name and the recipe; FleetError for what is missing or would make an adapter that nobody can serve."""
    from onecard.errors import FleetError

    spec, where = loaded.agent(agent), f"{loaded.file}: agents.{agent}"
    if spec.adapter_name is None:
        raise FleetError(
            "no adapter to train",
            where=f"{where}.adapter",
            allowed="<name>@<version or alias>",
            next_step=f"add `adapter: {agent}@production` to the agent",
        )
    if spec.recipe is None:
        raise FleetError(
            "no recipe", where=f"{where}.recipe", next_step="name a shipped one such as `recipe: qlora`, or write one"
        )
    _same_weights(loaded, spec, where)
    return spec.adapter_name, spec.recipe


def _same_weights(loaded: LoadedFleet, spec: AgentSpec, where: str) -> None:
    from onecard.errors import FleetError

    model, recipe = loaded.fleet.models[spec.model], spec.recipe
    if recipe is None or model.engine not in ("auto", "local") or model.quantization not in LOADABLE:
        return
    scales_differ = model.quantization == "nf4" and model.double_quantization != recipe.double_quantization
    if model.quantization != recipe.base_quantization or scales_differ:
        raise FleetError(
            f"the recipe trains on {recipe.base_quantization} weights"
            f"{' with other block scales' if scales_differ else ''} and model '{spec.model}' is served in "
            f"{model.quantization}: the adapter would be refused when it is served",
            where=f"{where}.recipe.base_quantization",
            allowed=f"{model.quantization} with double_quantization: {str(model.double_quantization).lower()}",
            next_step="change the recipe or the model",
        )
