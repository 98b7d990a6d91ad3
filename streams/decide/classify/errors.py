"""Which rules speak about an error, and which of them decides.

Each rule has a strength: how specific its evidence is. Structured evidence (a status, a code) adds to it, a class
name adds less, the text of a message nothing; deeper causes add a little, so that of equal evidence the innermost wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from schemas.records import Category, EvidenceSource, FailureEvent
from streams.decide.classify.evidence import Level, levels, origin_of, protocol_of
from streams.decide.classify.rules import Conditions, Rule, Rules, names_in

_STRONG: Final = 70
"""Weight of evidence that is specific: a code, a status that tells, or words for one cause."""
SPECIFIC: Final = 50
"""Weight from which an error's evidence outranks flaws of the reasoning and limits exceeded, and is an answer."""
CLEAR_LEAD: Final = 8
"""Lead in weight over the next different verdict below which a verdict is less sure."""
_BONUS: Final = {EvidenceSource.STRUCTURED: 8, EvidenceSource.CLASS_NAME: 4, EvidenceSource.MESSAGE: 0}
_DEPTH_BONUS: Final = 2
_TEXTS: Final = (".message", ".error")
"""How the paths of messages end; a name that stands in one is no name that a layer bears."""
_QUOTES: Final = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})
_MAX_DEPTH_BONUS: Final = 6


class Finding(NamedTuple):
    """One rule that spoke, and what it read."""

    rule: Rule
    weight: int
    source: EvidenceSource
    path: str
    text: str
    level: int
    """Depth of the exception that it was read from; 0 is the one that ended the run."""


def findings(event: FailureEvent, rules: Rules) -> list[Finding]:
    """Everything the rules say about the event's error, the decisive one first. Control flow, where it shows, alone."""
    shown = levels(event)
    found = [finding for level in shown for finding in _read(level, rules)]
    if not found:
        return found
    found = _holding(found, event, shown)
    found.sort(key=_precedence)
    interrupts = [finding for finding in found if finding.rule.category is Category.NONE]
    if interrupts:
        # Only of the run itself: asyncio raises a timeout from the cancellation of what took too long. What is only
        # said in words must also be the strongest: a handoff that failed is a failure.
        own = [finding for finding in interrupts if finding.level == 0 and finding.path.startswith("error.")]
        if own and (own[0].source is not EvidenceSource.MESSAGE or own[0] is found[0]):
            return own
        found = [finding for finding in found if finding.rule.category is not Category.NONE]
    return _innermost_first(found)


def transience_rival(found: list[Finding]) -> Finding | None:
    """The strongest that says of waiting the opposite of the decisive one."""
    if len(found) < 2 or (passing := found[0].rule.passing) is None:
        return None
    for finding in found:
        if finding.rule.passing is not passing and finding.rule.passing is not None:
            return finding
    return None


def unsure(found: list[Finding]) -> bool:
    """Whether the evidence is too weak to say anything, or is torn. A status is no proof, but it is an answer."""
    if not found:
        return False
    answered = bool(found[0].rule.status) and found[0].source is EvidenceSource.STRUCTURED
    return (found[0].weight < SPECIFIC and not answered) or torn(found)


def torn(found: list[Finding]) -> bool:
    """Whether evidence says about as strongly that waiting helps and that it never will: then nothing is said. Within
    one layer that is equal weight, and as many rules; words need a name or a number to be far ahead of them. Of a
    wrapper against what it wraps it is no clear lead, and any lead where two rules know that waiting would not help.
    """
    rival = transience_rival(found)
    if rival is None:
        return _blamed_for_a_wait(found)
    lead = found[0].weight - rival.weight
    if _named_against_words(found[0], rival):
        return lead < CLEAR_LEAD + _BONUS[EvidenceSource.CLASS_NAME]
    if rival.level > found[0].level:
        if _said_as_deep(found, rival):
            return False
        known = bool(found[0].rule.passing) and agreeing(found, rival) > 1
        return not rival.rule.status and (lead < CLEAR_LEAD or known)
    if lead > 0 or rival.level < found[0].level:
        return False
    # A status says little more than who is to blame, 403 and 500 most of all: of equal evidence it is no second voice.
    return agreeing(found, rival, statuses=False) >= agreeing(found, found[0], statuses=False)


def _said_as_deep(found: list[Finding], rival: Finding) -> bool:
    """Whether what is wrapped says itself what the wrapper says, far more clearly than the opposite."""
    verdict = found[0].rule.verdict
    return any(
        item.rule.verdict == verdict and item.level >= rival.level and item.weight >= rival.weight + CLEAR_LEAD
        for item in found
    )


def _named_against_words(named: Finding, said: Finding) -> bool:
    """Whether a layer's class, status or code is denied by its own words or by a name in them; a status that it spells
    out is no words.
    """
    if named.source is EvidenceSource.MESSAGE or named.level != said.level or said.rule.status:
        return False
    return said.source is EvidenceSource.MESSAGE or (said.path != named.path and said.path.endswith(_TEXTS))


def _blamed_for_a_wait(found: list[Finding]) -> bool:
    """Whether a model or the reasoning is blamed, and hardly less is said of a cause that passes."""
    if not (found and found[0].rule.lasts):
        return False
    rival = next((item for item in found if item.rule.passing), None)
    return rival is not None and found[0].weight - rival.weight < CLEAR_LEAD


def agreeing(found: list[Finding], finding: Finding | None = None, statuses: bool = True) -> int:
    """How many rules speak for a verdict, that of `finding` or the decisive one."""
    verdict = (finding or found[0]).rule.verdict
    return len(
        {item.rule.name for item in found if item.rule.verdict == verdict and (statuses or not item.rule.status)}
    )


def _innermost_first(found: list[Finding]) -> list[Finding]:
    """Where a deeper cause is specific and of the other transience, it decides: a wrapper knows less. Not a status: 429
    is a rate or a quota, 503 wraps anything. Nor where the wrapper says far more.
    """
    rival = _within_a_bug(found) or transience_rival(found)
    if rival is None or rival.rule.status or rival.level < found[0].level:
        return found
    if rival.level == found[0].level:
        return [rival, *(item for item in found if item is not rival)] if _outspoken(found[0], rival) else found
    if rival.weight < max(_STRONG, found[0].weight - CLEAR_LEAD):
        return found
    return [rival, *(item for item in found if item is not rival)]


def _outspoken(named: Finding, rival: Finding) -> bool:
    """Whether words say of a passing cause what only a class's name denies: whoever wraps an error names it."""
    words = named.source is EvidenceSource.CLASS_NAME and rival.source is EvidenceSource.MESSAGE
    return words and bool(rival.rule.passing) and rival.rule.strength >= max(_STRONG, named.rule.strength)


def _precedence(finding: Finding) -> tuple[int, tuple[int, int]]:
    return (-finding.weight, finding.rule.precedence)


def _within_a_bug(found: list[Finding]) -> Finding | None:
    """What failed first, where the agent's own code then failed in handling it."""
    if not found or found[0].rule.subtype != "runtime_error":
        return None
    return next((item for item in found if item.level > found[0].level and item.rule.passing is not None), None)


def _read(level: Level, rules: Rules) -> Iterator[Finding]:
    structured = EvidenceSource.STRUCTURED
    of_tool = level.path == "tool_response"
    for status in level.statuses:
        path = f"{level.path}.status_code" if of_tool else f"{level.path}.http_status"
        yield from _found(rules.by_status.get(status, ()), structured, level, path, str(status))
    for code in level.codes:
        own = "exit_code" if code.startswith("exit:") else "code"
        path = f"{level.path}.body" if of_tool else f"{level.path}.{own}"
        yield from _found(rules.by_code.get(code.lower(), ()), structured, level, path, code)
        yield from _found(rules.in_name(code), structured, level, path, code)
    if level.class_name:
        name = level.class_name.rpartition(".")[2]
        yield from _found(
            rules.in_name(name), EvidenceSource.CLASS_NAME, level, f"{level.path}.class", level.class_name
        )
    if level.text:
        yield from _read_text(level, rules, f"{level.path}.error" if of_tool else f"{level.path}.message")


def _plain(text: str) -> str:
    """Quotes as a keyboard has them: isn't, however it was set."""
    return text if text.isascii() else text.translate(_QUOTES)


def _read_text(level: Level, rules: Rules, path: str) -> Iterator[Finding]:
    """What a message says in words, and through the names of deeper errors that it shows."""
    text = _plain(level.text).encode(errors="replace")
    said, shows_names = rules.in_text(text)
    # Another status than the layer's own is that of what it wraps.
    wrapped = (
        [rule for rule in said if rule.status and rule.status.isdisjoint(level.statuses)] if level.statuses else []
    )
    yield from _found(wrapped, EvidenceSource.MESSAGE, level, path, level.text, deeper=1)
    own = [rule for rule in said if rule not in wrapped] if wrapped else said
    yield from _found(own, EvidenceSource.MESSAGE, level, path, level.text)
    if shows_names:
        for name in names_in(text):
            yield from _found(
                rules.by_code.get(name.lower(), ()), EvidenceSource.CLASS_NAME, level, path, name, deeper=1
            )
            yield from _found(rules.in_name(name), EvidenceSource.CLASS_NAME, level, path, name, deeper=1)


def _found(
    rules: Iterable[Rule], source: EvidenceSource, level: Level, path: str, text: str, deeper: int = 0
) -> Iterator[Finding]:
    bonus = _BONUS[source] + min((level.depth + deeper) * _DEPTH_BONUS, _MAX_DEPTH_BONUS)
    for rule in rules:
        yield Finding(rule, rule.strength + bonus, source, path, text, level.depth)


def _holding(found: list[Finding], event: FailureEvent, shown: list[Level]) -> list[Finding]:
    """Those whose conditions hold in this event."""
    if not any(finding.rule.conditional for finding in found):
        return found
    origin, protocol = origin_of(event), protocol_of(event)
    seen = frozenset(finding.rule.name for finding in found)
    statuses = frozenset(status for level in shown for status in level.statuses).union(
        *(item.rule.status for item in found if item.rule.status and item.source is EvidenceSource.MESSAGE)
    )

    def held(conditions: Conditions) -> Iterator[bool]:
        if conditions.tenant:
            yield event.tenant_id in conditions.tenant
        if conditions.origin:
            yield origin in conditions.origin
        if conditions.protocol:
            yield protocol in conditions.protocol
        if conditions.status:
            yield not statuses.isdisjoint(conditions.status)
        if conditions.seen:
            yield not seen.isdisjoint(conditions.seen)

    return [
        finding
        for finding in found
        if not finding.rule.conditional or (all(held(finding.rule.when)) and not any(held(finding.rule.unless)))
    ]
