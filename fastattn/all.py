"Everything, for notebooks: `from fastai.vision.all import *`, and then `from fastattn.all import *`, which shadows fastai's interpretation classes on purpose"
from fastattn.core import *
from fastattn.data import *
from fastattn.weights import *
from fastattn.layers import *
from fastattn.encoders import *
from fastattn.evidence import *
from fastattn.unet import *
from fastattn.learner import *
from fastattn.cams import *
from fastattn.attended import *
from fastattn.capture import *
from fastattn.tokens import *
from fastattn.flow import *
from fastattn.vit import *
from fastattn.metrics import *
from fastattn.callback import *
from fastattn.interpret import *
