/** Several machines in one true time. */
import { expect } from 'chai'
import { MemoryStore, MemorySubstrate } from '#src/memory/index.ts'
import { Manager } from '#src/manager.ts'
import { SubstrateClient } from '#src/substrate-client.ts'
import { FaultySubstrate, SimulatedTime, track, type TestClock } from '#src/testing/index.ts'

/** What a clock shows. */
function readings(clock: TestClock): readonly number[] {
  return [clock.monotonic(), clock.now(), clock.boot?.() ?? Number.NaN]
}

function clockAtZero(time: SimulatedTime, rate?: number): TestClock {
  return time.clock({ monotonicMs: 0, wallMs: 0, rate })
}

describe('SimulatedTime', () => {
  it('fires the timers of all machines in the order of true time', async () => {
    const time = new SimulatedTime()
    const [one, other] = [time.clock({ monotonicMs: 7 }), time.clock({ monotonicMs: 100_000 })]
    const fired: string[] = []
    one.setTimer(30, () => fired.push(`one at ${time.nowMs}`))
    other.setTimer(20, () => {
      fired.push(`other at ${time.nowMs}`)
      one.setTimer(5, () => fired.push(`one at ${time.nowMs}`))
    })
    await time.advance(100)
    expect(fired).to.deep.equal(['other at 20', 'one at 25', 'one at 30'])
    expect([time.nowMs, one.monotonic(), other.monotonic()]).to.deep.equal([100, 107, 100_100])
  })

  it('lets machines run at rates of their own; a timer never fires before its instant', async () => {
    const time = new SimulatedTime()
    const [fast, slow] = [clockAtZero(time, 1.001), clockAtZero(time, 0.999)]
    const fired: number[] = []
    for (const clock of [fast, slow]) clock.setTimer(1_000, () => fired.push(time.nowMs, clock.monotonic()))
    await time.advance(10_000)
    const [fastAt, fastShown, slowAt, slowShown] = fired as [number, number, number, number]
    expect(fastAt).to.be.closeTo(999, 0.1)
    expect(slowAt).to.be.closeTo(1_001.001, 0.1)
    expect(Math.min(fastShown, slowShown)).to.be.at.least(1_000)
    expect(fast.monotonic()).to.be.closeTo(10_010, 0.01)
    expect(slow.now()).to.be.closeTo(9_990, 0.01)
  })

  it('fires timers without delay when everything comes to rest, and no time passes', async () => {
    const time = new SimulatedTime()
    const clock = clockAtZero(time)
    let fired = 0
    clock.setTimer(0, () => clock.setTimer(0, () => fired++))
    await time.settle()
    expect([fired, time.nowMs, time.pending]).to.deep.equal([1, 0, 0])
  })

  it('says so when something spins', async () => {
    const time = new SimulatedTime()
    const clock = clockAtZero(time)
    const spin = (): void => void clock.setTimer(0, spin)
    spin()
    const error = await time.advance(1).catch((cause: Error) => cause.message)
    expect(error).to.match(/something spins/)
  })

  it('a stalled process is late with its timers, and all its clocks go on', async () => {
    const time = new SimulatedTime()
    const clock = clockAtZero(time)
    const fired: number[] = []
    clock.setTimer(100, () => fired.push(clock.monotonic()))
    time.stall(clock, 500)
    expect(time.runs(clock)).to.equal(false)
    await time.advance(499)
    expect(fired).to.deep.equal([])
    expect(readings(clock)).to.deep.equal([499, 499, 499])
    await time.advance(1)
    expect(fired).to.deep.equal([500])
    expect(time.runs(clock)).to.equal(true)
  })

  it('a machine that sleeps does not count the time by its monotonic clock, and its timers are as far away as before', async () => {
    const time = new SimulatedTime()
    const clock = clockAtZero(time)
    const fired: number[] = []
    clock.setTimer(100, () => fired.push(time.nowMs))
    await time.advance(40)
    time.suspend(clock, 1_000)
    await time.advance(1_000)
    expect(readings(clock)).to.deep.equal([40, 1_040, 1_040])
    await time.advance(60)
    expect(fired).to.deep.equal([1_100])
  })

  it('a machine that was killed does nothing any more', async () => {
    const time = new SimulatedTime()
    const clock = clockAtZero(time)
    let fired = 0
    clock.setTimer(1, () => fired++)
    time.kill(clock)
    await time.advance(100)
    expect([fired, time.pending, time.runs(clock)]).to.deep.equal([0, 0, false])
  })

  it('what reaches a process that does not run is handed over afterwards: before its late timers or after them', async () => {
    for (const first of ['timers', 'packets'] as const) {
      const time = new SimulatedTime()
      const [server, mine] = [time.clock(), time.clock()]
      const substrate = new MemorySubstrate({ store: new MemoryStore({ clock: server }) })
      const faulty = new FaultySubstrate(substrate, { clock: server, receiver: mine, latency: 5 })
      const client = new SubstrateClient({ substrate: faulty, clock: mine })
      const seen: string[] = []
      void client.refresh(['db']).then(() => seen.push('answer'))
      mine.setTimer(100, () => seen.push('timer'))
      await time.advance(11) // the clock of the store is known by now, and the read is sent
      time.stall(mine, 1_000, { first })
      await time.advance(999)
      expect(seen).to.deep.equal([])
      await time.advance(1)
      expect(seen).to.deep.equal(first === 'timers' ? ['timer', 'answer'] : ['answer', 'timer'])
    }
  })

  it('what a killed process has sent is still executed', async () => {
    const time = new SimulatedTime()
    const [server, mine] = [time.clock(), time.clock()]
    const store = new MemoryStore({ clock: server })
    const faulty = new FaultySubstrate(new MemorySubstrate({ store }), { clock: server, receiver: mine, latency: 5 })
    const client = new SubstrateClient({ substrate: faulty, clock: mine })
    const claim = track(client.claimLease('db', { holder: 'a', duration: 60_000 }))
    await time.advance(11)
    time.kill(mine)
    await time.advance(1_000)
    expect([claim.state, store.size]).to.deep.equal(['pending', 1])
  })

  it('two processes follow each other on a lease as in the world: the second is granted it after the first has slept too long', async () => {
    const time = new SimulatedTime()
    const [server, mine, theirs] = [time.clock(), time.clock({ rate: 1.0004 }), time.clock({ rate: 0.9996 })]
    const store = new MemoryStore({ clock: server })
    const manage = (clock: TestClock): Manager => {
      const faulty = new FaultySubstrate(new MemorySubstrate({ store }), { clock: server, receiver: clock, latency: 3 })
      return new Manager({ client: new SubstrateClient({ substrate: faulty, clock }), clock })
    }
    const [one, other] = [manage(mine), manage(theirs)]
    const holding = track(one.hold('db', 'a', { duration: 10_000 }))
    await time.advance(100)
    const waiting = track(other.hold('db', 'b', { duration: 10_000, wait: true }))
    await time.advance(100)
    time.suspend(mine, 60_000)
    await time.advance(20_000)
    expect([holding.value?.held === undefined, waiting.value?.held]).to.deep.equal([false, true])
    await time.advance(41_000)
    expect(holding.value?.held).to.equal(false)
    await Promise.all([one.stop(), other.stop()])
  })

  it('leaves the movement of its clocks to nobody else, and refuses nonsense', async () => {
    const time = new SimulatedTime()
    const clock = clockAtZero(time)
    const messages: string[] = []
    const note = (error: Error): void => void messages.push(error.message)
    await clock.advance(1).catch(note)
    await clock.pause(1).catch(note)
    await clock.suspend(1).catch(note)
    expect(messages).to.have.length(3)
    expect(messages[0]).to.match(/belongs to a SimulatedTime/)
    await time.advance(-1).catch(note)
    expect(messages[3]).to.match(/time does not go back/)
    time.stall(clock, 5)
    expect(() => time.suspend(clock, 5)).to.throw(/does not run/)
    await clock.jumpWall(70) // the wall clock may be set by anybody
    expect(clock.now()).to.equal(70)
  })
})
