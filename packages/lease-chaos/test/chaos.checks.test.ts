import { expect } from 'chai'
import { MAX_CAPACITY } from 'lease-core'
import { ELECTION, JOBS, LOCAL, LOCK, type CallOutcome, type ChaosEvent } from '#src/chaos/event.ts'
import { callEvents, foundIn, phaseEvent, reliedEvents, verdictOf, type MadeCall } from './chaos-histories.ts'

const A = 'p1-0-0'
const B = 'p2-0-0'
const C = 'p3-0-0'

/** Each of these, with some fields of one of them changed. */
function changed(calls: readonly MadeCall[], index: number, change: Partial<MadeCall>): ChaosEvent[] {
  return calls.flatMap((call, at) => callEvents(at === index ? { ...call, ...change } : call))
}

/** A has a term, is seen, and releases it; B has the next one. */
const HANDOVER: readonly MadeCall[] = [
  { operation: 'hold', holder: A, sentMs: 0, answeredMs: 10, token: 5 },
  { operation: 'claim', holder: C, sentMs: 20, answeredMs: 30, outcome: 'refused' },
  { operation: 'find', holder: C, sentMs: 40, answeredMs: 50, token: 5, seen: A },
  { operation: 'release', holder: A, sentMs: 60, answeredMs: 70, token: 5 },
  { operation: 'find', holder: C, sentMs: 80, answeredMs: 90 },
  { operation: 'hold', holder: B, sentMs: 100, answeredMs: 110, token: 6 },
  { operation: 'find', holder: C, sentMs: 120, answeredMs: 130, token: 6, seen: B },
]

describe('C1, what is relied on', () => {
  const first = reliedEvents({ holder: A, token: 5 }, { fromMs: 100, toMs: 200 })

  it('may follow each other', () => {
    expect(foundIn(first, reliedEvents({ holder: B, token: 6 }, { fromMs: 201, toMs: 300 }))).to.deep.equal([])
  })

  it('never overlaps: one sample that is moved is found', () => {
    const next = reliedEvents({ holder: B, token: 6 }, { fromMs: 199, toMs: 300 })
    expect(foundIn(first, next).join()).to.match(/C1: p2-0-0 while p1-0-0 did, for 1.0 ms/)
  })

  it('includes the promise of a plain claim, until it is released', () => {
    const claimed: MadeCall = { operation: 'claim', holder: A, sentMs: 0, answeredMs: 10, token: 5, durationMs: 500 }
    const next = reliedEvents({ holder: B, token: 6 }, { fromMs: 400, toMs: 450 })
    expect(foundIn(callEvents(claimed), next).join()).to.match(/C1: p2-0-0 while p1-0-0/)
    const released = callEvents({ operation: 'release', holder: A, sentMs: 300, answeredMs: 310, token: 5 })
    expect(foundIn(callEvents(claimed), released, next)).to.deep.equal([])
    const late = reliedEvents({ holder: B, token: 6 }, { fromMs: 499, toMs: 550 })
    expect(foundIn(callEvents(claimed), late)).to.deep.equal([]) // 500 ms less 0.1 % and a millisecond
  })

  it('may overlap where an operator takes leases away', () => {
    const lease = 'revocable-0'
    const both = [A, B].map((holder, index) =>
      reliedEvents({ holder, lease, token: 5 + index }, { fromMs: 1, toMs: 9 }),
    )
    expect(foundIn(...both)).to.deep.equal([])
  })

  it('says nothing about a single sample', () => {
    const one = reliedEvents({ holder: B, token: 6 }, { fromMs: 150, toMs: 150 }).slice(0, 1)
    expect(foundIn(first, one)).to.deep.equal([])
  })
})

describe('C2, fencing tokens', () => {
  it('rise from one term to the next', () => {
    expect(foundIn(changed(HANDOVER, 0, {}))).to.deep.equal([])
  })

  it('are found when two are swapped', () => {
    const calls = HANDOVER.map((call) => ({ ...call, ...(call.token !== undefined && { token: 11 - call.token }) }))
    expect(foundIn(changed(calls, 0, {})).join()).to.match(/C2: token 5 for a term that began after token 6 was seen/)
  })

  it('have one holder each', () => {
    expect(foundIn(changed(HANDOVER, 6, { seen: C })).join()).to.match(/C2: token 6 has two holders/)
  })

  it('may come in any order when the calls overlap', () => {
    const calls: readonly MadeCall[] = [
      { operation: 'hold', holder: A, sentMs: 0, answeredMs: 50, token: 6, lease: 'hot-0' },
      { operation: 'hold', holder: B, sentMs: 0, answeredMs: 10, token: 5, lease: 'hot-0' },
    ]
    expect(foundIn(changed(calls, 0, {}))).to.deep.equal([])
  })
})

describe('C3, guarded writes', () => {
  const stored = (token: number, atMs: number, lease = 'hot-0'): ChaosEvent => {
    return { worker: 'run', what: 'stored', detail: 'write', lease, token: String(token), atMs }
  }
  const reported = (what: string, token: number): ChaosEvent => {
    return { worker: 'p1', what, lease: 'hot-0', token: String(token), atMs: token }
  }
  const end = phaseEvent('stored', 1000)

  it('are in the order of their tokens, and as they were reported', () => {
    expect(foundIn(reported('written', 5), reported('refused', 6), stored(5, 100), stored(7, 101), end)).to.deep.equal(
      [],
    )
  })

  it('are found when one comes after a newer one', () => {
    expect(foundIn(stored(7, 100), stored(5, 101), end).join()).to.match(/C3: a write with token 5 after 7/)
  })

  it('are found when one that was acknowledged is lost, or one that was refused is there', () => {
    expect(foundIn(reported('written', 5), end).join()).to.match(/C3: the write with token 5 was written/)
    expect(foundIn(reported('refused', 5), stored(5, 100), end).join()).to.match(
      /C3: the write with token 5 was refused/,
    )
  })

  it('are found with the instant at which they were reported, and with their fencing tokens', () => {
    const { violations } = verdictOf(
      reported('written', 5),
      stored(7, 100),
      stored(5, 101),
      reported('written', 7),
      end,
    )
    expect(violations).to.deep.equal([
      { check: 'C3', lease: 'hot-0', atMs: 5, what: 'a write with token 5 after 7', tokens: ['5', '7'] },
    ])
  })

  it('are not compared with a log that was never read', () => {
    expect(foundIn(reported('written', 5))).to.deep.equal([])
  })

  it('are distinguished from the unguarded ones, which may go wrong', () => {
    const wrong = [stored(7, 100, 'unguarded-hot-0'), stored(5, 101, 'unguarded-hot-0'), end]
    expect(foundIn(...wrong)).to.deep.equal([])
    expect(verdictOf(...wrong).unguarded).to.have.length(1)
  })
})

describe('C4, the timeline of a lease', () => {
  it('finds a term that is seen after its release, or after a later one', () => {
    expect(foundIn(changed(HANDOVER, 2, { sentMs: 75, answeredMs: 79 })).join()).to.match(
      /C4: token 5 was seen after its release was answered/,
    )
    const unreleased = HANDOVER.filter(({ operation }) => operation !== 'release')
    expect(foundIn(changed(unreleased, 2, { sentMs: 111, answeredMs: 115 })).join()).to.match(
      /C4: token 5 was seen after a later term/,
    )
  })

  it('accepts a term that is seen after the release of a Hold that was lost before', () => {
    const calls = HANDOVER.slice(0, 4)
    const [sent, answer] = callEvents(calls[3] as MadeCall) as [ChaosEvent, ChaosEvent]
    const seen = callEvents({ operation: 'find', holder: C, sentMs: 75, answeredMs: 79, token: 5, seen: A })
    expect(foundIn(changed(calls.slice(0, 3), 0, {}), sent, { ...answer, detail: LOCAL }, seen)).to.deep.equal([])
  })

  it('finds a lease that is read as vacant while it is held throughout', () => {
    const held = reliedEvents({ holder: A, token: 5 }, { fromMs: 11, toMs: 59 })
    expect(foundIn(changed(HANDOVER, 0, {}), held)).to.deep.equal([])
    const read = callEvents({ operation: 'find', holder: C, sentMs: 20, answeredMs: 40 })
    expect(foundIn(changed(HANDOVER, 0, {}), held, read).join()).to.match(/C4: read as vacant while p1-0-0 held it/)
    const late = callEvents({ operation: 'find', holder: C, sentMs: 55, answeredMs: 65 })
    expect(foundIn(changed(HANDOVER, 0, {}), held, late)).to.deep.equal([])
  })

  it('finds a holder that is refused while it holds', () => {
    const held = reliedEvents({ holder: A, token: 5 }, { fromMs: 11, toMs: 59 })
    const again = callEvents({ operation: 'claim', holder: A, sentMs: 20, answeredMs: 40, outcome: 'refused' })
    expect(foundIn(changed(HANDOVER, 0, {}), held, again).join()).to.match(
      /C4: p1-0-0 was refused while it held token 5/,
    )
  })

  it('finds a claim that was denied although nobody can have held the lease', () => {
    const denied: MadeCall = { operation: 'claim', holder: C, sentMs: 72, answeredMs: 74, outcome: 'refused' }
    expect(foundIn(changed(HANDOVER, 0, {}), callEvents(denied)).join()).to.match(/C4: p3-0-0 was denied a lease/)
    // An unknown claim may be in the way.
    const unknown = callEvents({ operation: 'claim', holder: 'p4-0-0', sentMs: 5, answeredMs: 6, outcome: 'unknown' })
    expect(foundIn(changed(HANDOVER, 0, {}), callEvents(denied), unknown)).to.deep.equal([])
  })
})

describe('C4, the search for an order', () => {
  const lost: MadeCall = { operation: 'claim', holder: B, sentMs: 75, outcome: 'unknown' }

  it('finds one for a sound history, also with calls whose outcome is unknown', () => {
    const seen = callEvents({ operation: 'find', holder: C, sentMs: 92, answeredMs: 95, token: 6, seen: B })
    expect(foundIn(changed(HANDOVER.slice(0, 5), 0, {}), callEvents(lost), seen)).to.deep.equal([])
  })

  it('finds none when a term comes back after a read saw the lease vacant', () => {
    const calls = HANDOVER.filter(({ operation }) => operation !== 'release')
    const back = callEvents({ operation: 'find', holder: C, sentMs: 92, answeredMs: 95, token: 5, seen: A })
    expect(foundIn(changed(calls, 0, {}), back)).to.deep.equal(['C4: no order of its 7 calls gives these answers'])
    // A read that overlaps the other one may have come before it.
    const overlapping = callEvents({ operation: 'find', holder: C, sentMs: 85, answeredMs: 95, token: 5, seen: A })
    expect(foundIn(changed(calls, 0, {}), overlapping)).to.deep.equal([])
  })

  it('finds none when a claim is denied between two terms of the same holder alone', () => {
    const alone: readonly MadeCall[] = [
      { operation: 'hold', holder: A, sentMs: 0, answeredMs: 10, token: 5 },
      { operation: 'find', holder: C, sentMs: 20, answeredMs: 30 },
      { operation: 'claim', holder: C, sentMs: 40, answeredMs: 50, outcome: 'refused' },
    ]
    expect(foundIn(changed(alone, 0, {}))).to.deep.equal(['C4: no order of its 3 calls gives these answers'])
  })
})

describe('C5, liveness', () => {
  const phases = [phaseEvent('quiet', 100), phaseEvent('impatient', 900), phaseEvent('end', 1000)]
  const find = (outcome: CallOutcome, sentMs: number): ChaosEvent[] => {
    return callEvents({ operation: 'find', holder: A, sentMs, answeredMs: sentMs + 1, lease: 'hot-0', outcome })
  }

  it('is broken when a worker never succeeds in the quiet, and only then', () => {
    expect(foundIn(phases, find('unknown', 200)).join()).to.match(
      /C5: find never succeeded after the faults, in 1 calls/,
    )
    expect(foundIn(phases, find('unknown', 200), find('granted', 300))).to.deep.equal([])
    expect(foundIn(phases.toSpliced(1, 1), find('unknown', 200))).to.deep.equal([])
    expect(foundIn(phases, find('unknown', 50))).to.deep.equal([])
  })

  it('is broken when a call has no outcome and its process does not end', () => {
    const pending = callEvents({ operation: 'hold-wait', holder: A, sentMs: 50, lease: 'hot-0' })
    const gone: ChaosEvent = { worker: 'run', what: 'gone', lease: 'p1', detail: 'stuck', atMs: 2000 }
    expect(foundIn(pending, gone)).to.include('C5: p1: a call of hold-wait was still without outcome at the end')
    expect(foundIn(pending, { ...gone, detail: 'ended by the run' })).to.deep.equal([])
  })
})

describe('C6, signals', () => {
  const relied = reliedEvents({ holder: A, token: 5 }, { fromMs: 10, toMs: 95, trustedUntilMs: 100 })
  const aborted = (atMs: number, more: Partial<ChaosEvent> = {}): ChaosEvent => {
    return {
      worker: 'p1',
      what: 'aborted',
      lease: 'cold-1',
      token: '5',
      held: false,
      detail: 'ErrLost expired',
      atMs,
      ...more,
    }
  }

  it('abort before the trust window ends, or a timer later', () => {
    expect(foundIn(relied, aborted(120))).to.deep.equal([])
    expect(foundIn(relied, aborted(140)).join()).to.match(/C6: the signal of p1 for token 5 aborted 40.0 ms after/)
  })

  it('may be late by the time in which the event loop did not run, and after a release', () => {
    expect(foundIn(relied, aborted(140), { worker: 'p1', what: 'late', lostMs: 60, atMs: 141 })).to.deep.equal([])
    expect(foundIn(relied, aborted(140, { detail: 'AbortError' }))).to.deep.equal([])
  })

  it('say nothing where samples ended before the window did: it may have been renewed', () => {
    const early = reliedEvents({ holder: A, token: 5 }, { fromMs: 10, toMs: 40, trustedUntilMs: 100 })
    expect(foundIn(early, aborted(140))).to.deep.equal([])
  })

  it('never abort while it is held', () => {
    expect(foundIn(relied, aborted(60, { held: true })).join()).to.match(/C6: p1 still held token 5/)
  })
})

describe('C7, leftovers', () => {
  const usage = (heapBytes: number, atMs: number): ChaosEvent => {
    return { worker: 'p1', what: 'usage', atMs, usage: { heapBytes, descriptors: 9, timers: 3, listeners: 5 } }
  }
  const MIB = 2 ** 20

  it('are errors that nobody caught, warnings, crashes, and processes that do not end', () => {
    expect(foundIn({ worker: 'p1', what: 'uncaught', detail: 'Error', atMs: 1 })).to.have.length(1)
    expect(foundIn({ worker: 'p1', what: 'warning', detail: 'MaxListeners', atMs: 1 })).to.have.length(1)
    expect(foundIn({ worker: 'run', what: 'gone', lease: 'p1', code: 1, atMs: 1 })).to.have.length(1)
    expect(foundIn({ worker: 'run', what: 'gone', lease: 'p1', detail: 'stuck', atMs: 1 })).to.have.length(1)
    expect(foundIn({ worker: 'p1', what: 'closed', left: ['socket:[1]'], atMs: 1 })).to.have.length(1)
    const quiet: readonly ChaosEvent[] = [
      { worker: 'run', what: 'gone', lease: 'p1', code: 0, atMs: 1 },
      { worker: 'run', what: 'gone', lease: 'p1', code: null, atMs: 1 },
      { worker: 'p1', what: 'closed', left: [], atMs: 1 },
    ]
    expect(foundIn(...quiet)).to.deep.equal([])
  })

  it('are growth over a long run, not over a short one', () => {
    const steady = Array.from({ length: 200 }, (_, index) => usage((20 + (index % 10)) * MIB, index))
    const growing = Array.from({ length: 200 }, (_, index) => usage((20 + index) * MIB, index))
    expect(foundIn(steady)).to.deep.equal([])
    expect(foundIn(growing).join()).to.match(/C7: p1 grows: heapBytes by \d+ in/)
    expect(foundIn(growing.slice(0, 100))).to.deep.equal([])
  })

  it('are growth below the ups and downs of a heap, as soon as it is more than these', () => {
    const sawtooth = (perMeasurement: number): ChaosEvent[] =>
      Array.from({ length: 600 }, (_, index) => usage((20 + (index % 10) + index * perMeasurement) * MIB, index))
    expect(foundIn(sawtooth(0.05)).join()).to.match(/C7: p1 grows: heapBytes/)
    expect(foundIn(sawtooth(0.005))).to.deep.equal([])
  })

  it('are no growth where a few more are taken once, or while faults last', () => {
    const of = (descriptors: (index: number) => number): ChaosEvent[] =>
      Array.from({ length: 600 }, (_, index) => {
        return {
          ...usage(MIB, index),
          usage: { heapBytes: MIB, descriptors: descriptors(index), timers: 3, listeners: 5 },
        }
      })
    expect(foundIn(of((index) => (index < 400 ? 30 : 33)))).to.deep.equal([])
    expect(foundIn(of((index) => 30 + (Math.floor(index / 60) % 3) * 8))).to.deep.equal([])
    expect(foundIn(of((index) => 30 + Math.floor(index / 30))).join()).to.match(/C7: p1 grows: descriptors by 1\d in/)
  })
})

describe('C8, groups', () => {
  const share = (holder: string, token: number, weight: number, fromMs: number, lease = 'permits-3'): ChaosEvent[] => {
    return reliedEvents({ holder, lease, token, weight }, { fromMs, toMs: fromMs + 50 })
  }

  it('never exceed the capacity', () => {
    expect(foundIn(share(A, 5, 2, 100), share(B, 6, 1, 120))).to.deep.equal([])
    expect(foundIn(share(A, 5, 2, 100), share(B, 6, 2, 120)).join()).to.match(/C8: 4 of 3 were relied on/)
    expect(foundIn(share(A, 5, MAX_CAPACITY, 100, LOCK), share(B, 6, 1, 149, LOCK)).join()).to.match(/C8/)
  })

  it('have tokens that rise', () => {
    expect(foundIn(share(A, 6, 3, 100), share(B, 5, 3, 200)).join()).to.match(/C8: token 5 after 6/)
  })

  it('have one leader, whose selections alternate with losses', () => {
    const event = (what: string, atMs: number): ChaosEvent => ({ worker: 'p1', what, lease: ELECTION, atMs })
    expect(foundIn(event('selected', 1), event('deselected', 2), event('selected', 3))).to.deep.equal([])
    expect(foundIn(event('selected', 1), event('selected', 3))).to.deep.equal(['C8: p1 was selected twice in a row'])
    const two = [share(A, 5, 1, 100, ELECTION), share(B, 6, 1, 149, ELECTION)]
    expect(foundIn(...two).join()).to.match(/C8: p2-0-0 while p1-0-0 did/)
  })

  it('run a slot once', () => {
    const begun = (token: number, detail: string): ChaosEvent => {
      return { worker: 'p1', what: 'begun', lease: JOBS[0], token: String(token), detail, atMs: token, askedMs: token }
    }
    expect(foundIn(begun(5, '01'), begun(6, '02'))).to.deep.equal([])
    expect(foundIn(begun(5, '01'), begun(6, '01'))).to.deep.equal(['C8: slot 01 after 01'])
  })
})
