"""Fixed-step schemes for SDEs on a Brownian path, and the driver that runs them.

| name | class | calculus | noise | strong order | weak order | needs |
|---|---|---|---|---|---|---|
| "euler" | Euler | Ito | any | 1/2 (additive: 1) | 1 | W |
| "milstein" | Milstein | Ito | any | 1 | 1 | W (general noise: area) |
| "sri2" | SRI2 | Ito | any | 1, derivative-free | 1 | W (general noise: area) |
| "platen" | PlatenWeak2 | Ito | any | 1, derivative-free | 2 | W (general noise: area) |
| "heun" | Heun | Stratonovich | any | 1 (general: 1/2) | 1 | W |
| "log_ode" | LogODE | Stratonovich | any | 1 | 1 | W (general noise: area) |
| "taylor15" | Taylor15 | Ito | additive, scalar, diagonal | 3/2 | 2 | W, H |
| "sra1" | SRA1 | both | additive | 3/2 | 2 | W, H |
| "shark" | ShARK | both | additive | 3/2 | 2 | W, H |
| "dpm_solver_1" | DPMSolver1 | - | `CanonicalSDE` | 1 | 1 | W |
| "dpm_solver_2m" | DPMSolver2M | - | `CanonicalSDE` | 1 | 1 | W |
| "dpm_solver_3m" | DPMSolver3M | - | `CanonicalSDE` | 1 | 1 | W |
| "seeds_2" | SEEDS2 | - | `CanonicalSDE` | 1 | 1 | W |
| "er_sde_3" | ERSDESolver3 | - | `CanonicalSDE` | 1, to a limit of its own | 1 | W |
| "ipndm_4" | IPNDM4 | - | `CanonicalSDE`, eta = 0 | - (order 2) | - | - |
| "path_average" | PathAverage | - | `CanonicalSDE` | 3/2 | 2 | W, H |

The last seven are in `sdesig.sampling`, which adds them to `SCHEMES`. "torchsde:<method>" runs a method of torchsde:
all but "adjoint_reversible_heun". `solve_adaptive` chooses the steps of "shark" itself.
"""

from sdesig.solvers.adaptive import AdaptiveSolution, solve_adaptive
from sdesig.solvers.base import SCHEMES, Scheme, noise_structure, strong_orders
from sdesig.solvers.driver import scheme_named, solve
from sdesig.solvers.euler import Euler
from sdesig.solvers.heun import Heun
from sdesig.solvers.log_ode import LogODE
from sdesig.solvers.milstein import Milstein
from sdesig.solvers.platen import PlatenWeak2
from sdesig.solvers.shark import ShARK
from sdesig.solvers.sra1 import SRA1
from sdesig.solvers.sri2 import SRI2
from sdesig.solvers.taylor import Taylor15
from sdesig.solvers.torchsde_methods import TorchsdeMethod

__all__ = [
    "SCHEMES",
    "SRA1",
    "SRI2",
    "AdaptiveSolution",
    "Euler",
    "Heun",
    "LogODE",
    "Milstein",
    "PlatenWeak2",
    "Scheme",
    "ShARK",
    "Taylor15",
    "TorchsdeMethod",
    "noise_structure",
    "scheme_named",
    "solve",
    "solve_adaptive",
    "strong_orders",
]

SCHEMES.update(euler=Euler, milstein=Milstein, sri2=SRI2, heun=Heun, log_ode=LogODE, taylor15=Taylor15)
SCHEMES.update(sra1=SRA1, shark=ShARK, platen=PlatenWeak2)
