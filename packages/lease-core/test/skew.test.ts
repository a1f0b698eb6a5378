import { expect } from 'chai'
import { elapsedTimeOf } from '#src/elapsed-time.ts'
import { inViewSince } from '#src/observer.ts'
import { lapseWindowMs, trustWindowMs } from '#src/skew.ts'
import { Term } from '#src/term.ts'
import { TestClock } from '#src/testing/index.ts'

const at = (ms: number) => ({ monotonicMs: ms, wallMs: ms, atMostMs: ms, atLeastMs: ms })

describe('Skew: the arithmetic of trust', () => {
  it('a holder trusts 0.1 % and a millisecond less; everyone else waits as much longer', () => {
    expect(trustWindowMs(30_000)).to.equal(29_969)
    expect(lapseWindowMs(30_000)).to.equal(30_031)
    expect(trustWindowMs(1)).to.be.lessThan(0)
  })

  it('two clocks that drift apart by 0.1 % never make two believe', () => {
    for (const duration of [1, 100, 30_000, 86_400_000]) {
      expect(trustWindowMs(duration) * 1.001).to.be.lessThan(duration)
      expect(lapseWindowMs(duration) * 0.999).to.be.at.least(duration * 0.999)
    }
  })

  it('a version is in view since it was first seen, not last', () => {
    const seen = at(1)
    expect(inViewSince({ version: 'v', seen }, 'v', at(9))).to.equal(seen)
    expect(inViewSince({ version: 'v', seen }, 'w', at(9))).to.deep.equal(at(9))
    expect(inViewSince(undefined, 'v', at(9))).to.deep.equal(at(9))
    expect(inViewSince({ version: undefined, seen }, undefined, at(9))).to.deep.equal(at(9))
  })

  it('a later grant never moves the end of trust back', async () => {
    const clock = new TestClock()
    const time = elapsedTimeOf(clock)
    const host = { at: () => {}, off: () => {}, end: () => {} }
    const grant = { holder: 'a', fencingToken: 1n, nonce: 'n', sent: time.read(), durationMs: 60_000, isAdopted: false }
    const term = new Term(host, 'db', grant)
    term.extend({ sent: time.read(), durationMs: 1000 })
    await clock.advance(59_938)
    expect(term.isTrusted(time.read())).to.equal(true)
    await clock.advance(1)
    expect(term.isTrusted(time.read())).to.equal(false)
    expect(term.leftMs(time.read())).to.equal(0)
  })
})
