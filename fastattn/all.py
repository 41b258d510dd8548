"""Everything for notebooks: `from fastai.vision.all import *`, and then `from fastattn.all import *`.

Four classes take the place of fastai's of the same names, and do all that those do: `Interpretation`,
`ClassificationInterpretation`, `SegmentationInterpretation` and `DynamicUnet`. All that is not listed here is imported
from its module."""
from .documented import document
from .image.heatmap import Heatmap
from .core.hooks import Trace
from .core.layers import candidates
from .core.registry import explainer, explainers, suitable
from .core.pipeline import explain
from .core.questions import contrast, detection, similar_to
from .core.text import text_target
from .data.demo import demo_arch, demo_boxes, demo_dls, demo_mask, demo_masks, demo_vit
from .data.folders import folder_dls
from .data.imagenet import imagenet_lite0
from .attention.trace import AttentionTrace
from .attention.plots import plot_heads, plot_layers, plot_patches
from .detr.attention import DetrAttention
from .detr import maps, plots  # methods of `DetrAttention`
from .models.soft_attention import SoftAttention
from .models.unet import DynamicUnet
from .models.learners import attention_learner, attention_unet_learner, demo_detr_learner, demo_learner
from .models.zero_shot import zero_shot_learner
from .models.small_clip import demo_clip
from .features.filters import plot_features, plot_filters
from .features.embeddings import embeddings
from .features.projection import plot_tsne
from .features.retrieval import similar_images
from .features.dreams import visualize_class
from .features.components import plot_pca
from .features.alike import plot_similarity
from .metrics.localisation import auc_inside, energy_inside, pointing_game
from .metrics.faithfulness import average_drop, deletion, insertion
from .metrics.sanity import sanity_check
from .metrics.road import road
from .metrics.mosaics import grid_pointing
from .metrics.audit import audit_maps
from .callback.recorder import AttentionRecorder
from .callback import settling  # a method of `AttentionRecorder`
from .scale.maps import open_maps
from .scale.saving import save_maps
from .scale import lookup  # methods of tables of maps
from .interpret.story import plot_before_after, plot_stories, tell
from .interpret.compare import plot_methods
from .interpret.interpretation import ClassificationInterpretation, Interpretation, SegmentationInterpretation
from .interpret.shortcuts import find_shortcuts
from .interpret import confused, report  # methods of interpretations
from .interpret.cleaner import HeatmapCleaner
from .interpret.progress import compare_interps
from .interpret.prompts import plot_prompts
from .interpret import bodies  # a method of interpretations
from .cli.checkpoint import load_checkpoint, save_checkpoint

__all__ = [
    # ask a model
    'explain', 'explainer', 'explainers', 'suitable', 'candidates', 'Heatmap', 'Trace', 'contrast', 'similar_to', 'detection',
    # ask it with words
    'text_target', 'plot_prompts', 'zero_shot_learner',
    # watch it train, see what went wrong
    'AttentionRecorder', 'Interpretation', 'ClassificationInterpretation', 'SegmentationInterpretation',
    'plot_methods', 'tell', 'plot_stories', 'plot_before_after',
    # models that attend
    'attention_learner', 'attention_unet_learner', 'SoftAttention', 'DynamicUnet', 'folder_dls', 'save_checkpoint', 'load_checkpoint',
    # transformers and detectors
    'AttentionTrace', 'plot_heads', 'plot_layers', 'plot_patches', 'DetrAttention',
    # what it has learned
    'plot_filters', 'plot_features', 'embeddings', 'plot_tsne', 'similar_images', 'visualize_class',
    'plot_pca', 'plot_similarity',
    # which map to believe
    'energy_inside', 'pointing_game', 'auc_inside', 'insertion', 'deletion', 'average_drop', 'road', 'grid_pointing',
    'sanity_check', 'audit_maps', 'find_shortcuts',
    # mend the data
    'HeatmapCleaner', 'compare_interps',
    # a million pictures
    'save_maps', 'open_maps',
    # something to try it on
    'demo_dls', 'demo_arch', 'demo_vit', 'demo_mask', 'demo_masks', 'demo_boxes', 'demo_learner', 'demo_detr_learner', 'demo_clip', 'imagenet_lite0',
]

document(*[globals()[n] for n in __all__])  # `help(explain)` and `explain?` show what each argument means
