"""Four models in plain torch, each with the estimator that one would write for it by hand."""

from models import belief_net, discrete_vae, hard_attention, rollout
from models.reference import Reference

REFERENCES: dict[str, Reference] = {
    "belief_net": belief_net.REFERENCE,
    "discrete_vae": discrete_vae.REFERENCE,
    "hard_attention": hard_attention.REFERENCE,
    "rollout": rollout.REFERENCE,
}
