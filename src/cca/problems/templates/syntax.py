"""Expression text to a syntax tree, within bounds on length; what the tree may hold is the evaluator's business."""

from __future__ import annotations

import ast
import re
import warnings

from cca.problems.templates.exact_numbers import ExpressionError

MAXIMUM_TEXT = 5_000
MAXIMUM_DEPTH = 40
MAXIMUM_NODES = 1_500
MAXIMUM_COST = 50_000

# Signs of word processors and of mathematics that writers of templates paste in.
_SPELLINGS = str.maketrans({
    "“": '"', "”": '"', "‘": "'", "’": "'", "×": "*", "÷": "/", "−": "-", "–": "-", "≤": "<=", "≥": ">=", "≠": "!=",
})  # fmt: skip


def parse(text: str) -> ast.expr:
    if len(text) > MAXIMUM_TEXT:
        raise ExpressionError(f"expected an expression of at most {MAXIMUM_TEXT} characters, got {len(text)}")
    if text.isidentifier() and text not in ("True", "False", "None"):
        return ast.Name(text, ast.Load())  # a variable may be called "class" or "from"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python remarks on "1if x"; whoever wrote that meant it
            return _MEANT.visit(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as error:
        respelled = text.translate(_SPELLINGS)
        if respelled != text:
            return parse(respelled)
        raise ExpressionError(f"cannot read '{brief(text)}' as an expression ({error.msg})") from error
    except (ValueError, MemoryError, RecursionError) as error:
        raise ExpressionError(
            f"cannot read '{brief(text)}' as an expression (too deep or malformed)"
        ) from error


class _Meant(ast.NodeTransformer):
    """What writers mean: ``&`` between conditions is ``and`` (arrays are joined so), a set of one is in brackets."""

    def visit_Set(self, node: ast.Set) -> ast.AST:
        self.generic_visit(node)
        return node.elts[0] if len(node.elts) == 1 else node  # "{n} + {k}": a slot inside a slot

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        joints = {ast.BitAnd: ast.And, ast.BitOr: ast.Or}
        sides = [node.left, node.right]
        if type(node.op) in joints and all(isinstance(side, ast.Compare | ast.BoolOp) for side in sides):
            return ast.BoolOp(joints[type(node.op)](), sides)
        return node


_MEANT = _Meant()


def undollared(text: str) -> str:
    """``$n - $k`` as ``n - k``: the sign that numbers bear in #init may be before their names anywhere."""
    return re.sub(r"\$(?=\s?[^\W\d])", "", text)


def brief(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_dotted(node: ast.expr) -> bool:
    """Whether ``dotted`` gives a name."""
    return isinstance(node, ast.Name) or (
        isinstance(node, ast.Attribute) and (isinstance(node.value, ast.Name) or _is_random(node.value))
    )


def dotted(node: ast.expr) -> str:
    """``np.arange`` as one name. Raises ExpressionError for a call of anything but a plain or module name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    if isinstance(node, ast.Attribute) and _is_random(node.value):
        return f"np.random.{node.attr}"
    raise ExpressionError(f"expected a call of a known function, got a call of {described(node)}")


def _is_random(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "random"
        and isinstance(node.value, ast.Name)
        and node.value.id in ("np", "numpy")
    )


def described(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"attribute access ('.{node.attr[:40]}')"
    return f"{type(node).__name__.lower()}"
