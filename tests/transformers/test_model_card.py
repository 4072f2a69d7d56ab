"""The metadata of a model card, read by the Hub's own client."""

from huggingface_hub import ModelCard
from run_records import a_record

from ml_energy_callbacks.report.export import Format, export
from ml_energy_callbacks.report.export.facts import Facts


def test_the_hubs_client_reads_the_metadata() -> None:
    runs = [a_record(seed=1, status="failed"), a_record(seed=2)]
    block = export(runs, Format.MODEL_CARD, Facts(training_type="fine-tuning"))
    card = ModelCard(f"---\nlicense: apache-2.0\n{block}---\n# A model\n")
    emissions = card.data.to_dict()["co2_eq_emissions"]
    assert emissions["emissions"] == 0.224
    assert (emissions["training_type"], emissions["geographical_location"]) == ("fine-tuning", "FRA")
    assert emissions["hardware_used"] == "NVIDIA H100, AMD EPYC"
    assert emissions["source"].endswith("; all 2 runs count (1 failed, 1 completed)")
