"""Five models in plain torch, each with the estimators that one would write for it by hand."""

from models import belief_net, discrete_vae, hard_attention, mixture_of_experts, rollout
from models.reference import Reference

REFERENCES: dict[str, Reference] = {
    "belief_net": belief_net.REFERENCE,
    "discrete_vae": discrete_vae.REFERENCE,
    "hard_attention": hard_attention.REFERENCE,
    "mixture_of_experts": mixture_of_experts.REFERENCE,
    "rollout": rollout.REFERENCE,
}
