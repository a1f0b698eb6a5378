import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { expect } from 'chai'
import { lead } from 'lease-recipes'
import { track } from 'lease-core/testing'
import { health, type Health } from '#src/index.ts'
import { Bench } from './bench.ts'

describe('health: is this process live', () => {
  let probe: Health | undefined
  afterEach(() => probe?.stop())

  it('while it holds, waits, or has released', async () => {
    const bench = new Bench()
    const { manager, clock } = bench
    probe = health(manager, { tolerance: { seconds: 10 }, clock })
    const hold = await manager.hold('a', 'h', { duration: 30_000 })
    await bench.other().claim('b', 'other', 600_000)
    track(manager.hold('b', 'h', { duration: 30_000, wait: true }))
    await clock.advance(120_000)
    expect(probe.live()).to.deep.equal({ ok: true, problems: [] })
    await hold.release()
    await clock.advance(120_000)
    expect(probe.live().ok).to.equal(true)
    await manager.stop()
  })

  it('while the store is away, also beyond every lease, once the work has ended', async () => {
    const { manager, clock, wire } = new Bench()
    probe = health(manager, { tolerance: { seconds: 10 }, clock })
    manager.events.subscribe(() => {}, { types: ['warning'] })
    const hold = await manager.hold('a', 'h', { duration: 30_000 })
    hold.signal.addEventListener('abort', () => void hold.release())
    wire.reject(new Error('away'))
    await clock.advance(600_000)
    expect(hold.held).to.equal(false)
    expect(probe.live().ok).to.equal(true)
    await manager.stop()
  })

  it('not, when work goes on for longer than the tolerance after its lease was lost, and again once it has ended', async () => {
    const bench = new Bench()
    const { manager, clock } = bench
    probe = health(manager, { tolerance: { seconds: 10 }, clock })
    const hold = await manager.hold('a', 'h', { duration: 30_000 })
    await bench.other().revoke('a')
    await clock.advance(10_000)
    expect(probe.live().ok, 'within the tolerance').to.equal(true)
    await clock.advance(2_000)
    expect(probe.live()).to.deep.equal({
      ok: false,
      problems: ['lease "a" of "h" was lost 12 s ago (revoked), and its work has not ended'],
    })
    await hold.release()
    expect(probe.live().ok).to.equal(true)
    await manager.stop()
  })

  it('not, when the work of a leader ignores its signal; but a leader that campaigns again is', async () => {
    const bench = new Bench()
    const { manager, clock } = bench
    probe = health(manager, { tolerance: { seconds: 10 }, clock })
    const ends: (() => void)[] = []
    const candidate = lead(manager, 'scheduler', () => new Promise<void>((end) => ends.push(end)), {
      holder: 'h',
      clock,
    })
    await clock.settle()
    await bench.other().revoke('scheduler')
    await clock.advance(15_000)
    expect(probe.live().ok).to.equal(false)
    ends[0]?.()
    await clock.advance(1_000)
    expect(ends, 'it leads again').to.have.length(2)
    expect(probe.live().ok).to.equal(true)
    ends[1]?.()
    await candidate.stop()
    await manager.stop()
  })

  it('after stop(), whatever was lost before', async () => {
    const bench = new Bench()
    const { manager, clock } = bench
    probe = health(manager, { tolerance: { seconds: 10 }, clock })
    const hold = await manager.hold('a', 'h', { duration: 30_000 })
    await bench.other().revoke('a')
    await clock.advance(12_000)
    expect([hold.held, probe.live().ok]).to.deep.equal([false, false])
    probe.stop()
    expect(probe.live()).to.deep.equal({ ok: true, problems: [] })
    await manager.stop()
  })

  it('when nobody has the Hold any more that was lost', async () => {
    const bench = new Bench()
    const { manager, clock } = bench
    const live = (probe = health(manager, { tolerance: { seconds: 10 }, clock }))
    await manager.hold('a', 'h', { duration: 30_000 }).then(() => {})
    await bench.other().revoke('a')
    await clock.advance(12_000)
    setFlagsFromString('--expose-gc')
    const collectGarbage = runInNewContext('gc') as () => void
    while (!live.live().ok) {
      await new Promise((resolve) => setImmediate(resolve))
      collectGarbage()
    }
    await manager.stop()
  })

  it('of another manager it says nothing, nor of Holds that ended with their manager', async () => {
    const bench = new Bench()
    const { manager, clock } = bench
    const other = bench.other()
    probe = health(manager, { tolerance: { seconds: 10 }, clock })
    await other.hold('a', 'other', { duration: 30_000 })
    await manager.hold('b', 'h', { duration: 30_000 })
    await manager.revoke('a')
    await manager.stop()
    await clock.advance(60_000)
    expect(probe.live().ok).to.equal(true)
    await other.stop()
  })
})

describe('health: is this process ready', () => {
  let probe: Health | undefined
  afterEach(() => probe?.stop())

  it('at once, unless something is asked for', async () => {
    const { manager, wire } = new Bench()
    probe = health(manager)
    expect(await probe.ready()).to.deep.equal({ ok: true, problems: [] })
    expect(wire.counts.read).to.equal(0)
    await manager.stop()
  })

  it('only while it leads, if that is asked for', async () => {
    const bench = new Bench()
    const { manager, clock } = bench
    probe = health(manager, { leader: 'scheduler', clock })
    expect((await probe.ready()).problems).to.deep.equal(['this process does not hold lease "scheduler"'])
    await manager.hold('other', 'h', { duration: 30_000 })
    expect((await probe.ready()).ok, 'of another lease').to.equal(false)
    await manager.hold('scheduler', 'h', { duration: 30_000 })
    expect((await probe.ready()).ok).to.equal(true)
    await bench.other().revoke('scheduler')
    await clock.settle()
    expect((await probe.ready()).ok).to.equal(false)
    await manager.hold('scheduler', 'h', { duration: 30_000 })
    expect((await probe.ready()).ok).to.equal(true)
    void clock.suspend(60_000) // no timer has noticed that the trust window is over
    expect((await probe.ready()).ok).to.equal(false)
    await manager.stop()
  })

  it('while the store answers: it is asked before its last answer is too old, once at a time, and again after a failure', async () => {
    const { manager, clock, wire } = new Bench()
    manager.events.subscribe(() => {}, { types: ['warning'] })
    const asking = (probe = health(manager, { answeredWithin: { seconds: 4 }, clock }))
    const outcomes = async (count: number): Promise<(boolean | undefined)[]> => {
      const asked = Array.from({ length: count }, () => track(asking.ready()))
      await clock.settle()
      return asked.map(({ value }) => value?.ok)
    }
    expect(await outcomes(3)).to.deep.equal([true, true, true])
    expect(wire.counts.read, 'for three probes').to.equal(1)
    await clock.advance(2_500)
    expect(await outcomes(1)).to.deep.equal([true])
    expect(wire.counts.read, 'before its answer is too old').to.equal(2)
    wire.reject(new Error('away'))
    await clock.advance(5_000)
    const away = track(asking.ready())
    await clock.advance(2_000)
    expect(away.value?.problems.join()).to.contain('the store has not answered within 4 s')
    wire.heal()
    expect(await outcomes(1)).to.deep.equal([true])
    wire.hang()
    await clock.advance(5_000)
    wire.resetCounts()
    for (let n = 0; n < 2; n++) expect(await outcomes(1)).to.deep.equal([undefined])
    expect(wire.counts.read, 'a question is still open').to.equal(1)
    await manager.stop()
  })

  it('only if the store has answered lately, if that is asked for; it reads one name, and not for every probe', async () => {
    const { manager, clock, wire } = new Bench()
    manager.events.subscribe(() => {}, { types: ['warning'] })
    probe = health(manager, { answeredWithin: { seconds: 4 }, clock })
    const first = track(probe.ready())
    await clock.settle()
    expect(first.value).to.deep.equal({ ok: true, problems: [] })
    wire.resetCounts()
    expect((await probe.ready()).ok).to.equal(true)
    await clock.settle()
    expect(wire.counts.read, 'it was asked a moment ago').to.equal(0)
    wire.hang()
    await clock.advance(10_000)
    const silent = track(probe.ready())
    await clock.advance(3_900)
    expect(silent.state).to.equal('pending')
    await clock.advance(200)
    expect(silent.value?.problems).to.deep.equal(['the store has not answered within 4 s'])
    await clock.advance(30_000)
    const away = track(probe.ready())
    await clock.advance(4_100)
    expect(away.value?.problems[0]).to.match(/^the store has not answered within 4 s: could not read lease/)
    await manager.stop()
  })
})
