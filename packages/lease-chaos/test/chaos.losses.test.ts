import { expect } from 'chai'
import { RUN, type ChaosEvent } from '#src/chaos/event.ts'
import { callEvents, reliedEvents, verdictOf, type MadeCall } from './chaos-histories.ts'

const A = 'p1-0-0'
const B = 'p2-0-0'

const lost = (atMs: number, sampledMs: number): ChaosEvent => {
  return { worker: RUN, what: 'lost', detail: 'promotion', atMs, sampledMs }
}

/** A is granted a lease and relies on it while B is granted it as well. */
const held: MadeCall = { operation: 'hold', holder: A, sentMs: 90, answeredMs: 99, token: 5 }
const twice: readonly ChaosEvent[] = [
  ...callEvents(held),
  ...reliedEvents({ holder: A, token: 5 }, { fromMs: 100, toMs: 200 }),
  ...reliedEvents({ holder: B, token: 6 }, { fromMs: 150, toMs: 300 }),
]

function countsOf(...events: readonly (ChaosEvent | readonly ChaosEvent[])[]) {
  const { violations, named } = verdictOf(...events)
  return { violations: violations.length, named: named.map(({ loss }) => loss.what) }
}

describe('what a store may forget', () => {
  it('explains a second holder of a lease that was granted in the lost time', () => {
    expect(countsOf(twice, lost(80, 140))).to.deep.equal({ violations: 0, named: ['promotion'] })
  })

  it('explains nothing about terms of another time, or of another lease', () => {
    expect(countsOf(twice)).to.deep.equal({ violations: 1, named: [] })
    expect(countsOf(twice, lost(10, 80))).to.deep.equal({ violations: 1, named: [] })
    expect(countsOf(twice, lost(301, 400))).to.deep.equal({ violations: 1, named: [] })
    const other = callEvents({ ...held, lease: 'cold-2', sentMs: 20, answeredMs: 30 })
    expect(countsOf(twice, other, lost(10, 80))).to.deep.equal({ violations: 1, named: [] })
  })

  it('explains a fencing token that goes back only after one of the lost time', () => {
    const back = [
      ...callEvents(held),
      ...callEvents({ operation: 'hold', holder: B, sentMs: 500, answeredMs: 510, token: 3 }),
    ]
    expect(countsOf(back, lost(80, 140)).violations).to.equal(0)
    expect(countsOf(back, lost(80, 140)).named).to.include('promotion')
    expect(countsOf(back, lost(10, 80)).violations).to.be.above(0)
  })

  it('explains a write that is missing, and none that was refused and is there', () => {
    const written: ChaosEvent = { worker: 'p1', what: 'written', lease: 'hot-0', token: '5', atMs: 100 }
    const end: ChaosEvent = { worker: RUN, what: 'phase', detail: 'stored', atMs: 1000 }
    expect(countsOf(written, end, lost(80, 140))).to.deep.equal({ violations: 0, named: ['promotion'] })
    expect(countsOf(written, end, lost(110, 140)).violations).to.equal(1)
    const stored: ChaosEvent = { worker: RUN, what: 'stored', detail: 'write', lease: 'hot-0', token: '5', atMs: 999 }
    expect(countsOf({ ...written, what: 'refused' }, stored, end, lost(80, 140)).violations).to.equal(1)
  })

  it('explains no late signal, no error and no end that does not come', () => {
    const failing: readonly ChaosEvent[] = [
      { worker: 'p1', what: 'uncaught', detail: 'Error', atMs: 100 },
      { worker: RUN, what: 'gone', lease: 'p1', detail: 'stuck', atMs: 101 },
      { worker: 'p1', what: 'aborted', lease: 'cold-1', token: '5', held: true, atMs: 102 },
    ]
    expect(countsOf(failing, lost(80, 140))).to.deep.equal({ violations: 3, named: [] })
  })

  it('explains nothing for ever where no term is known', () => {
    const free = (sentMs: number): ChaosEvent[] => [
      ...callEvents({ operation: 'release', holder: A, sentMs: 100, answeredMs: 110, token: 5 }),
      ...callEvents({ operation: 'claim', holder: B, sentMs, answeredMs: sentMs + 5, outcome: 'refused' }),
    ]
    expect(countsOf(free(200), lost(80, 140)).violations).to.equal(0)
    expect(countsOf(free(5000), lost(80, 140)).violations).to.be.above(0)
  })
})
