import { expect } from 'chai'
import { sleep, systemClock } from '#src/clock.ts'
import { TestClock, track } from '#src/testing/index.ts'

describe('TestClock: time stands still until the test moves it', () => {
  it('shows the same readings however long the test takes', async () => {
    const clock = new TestClock({ wallMs: 1_000_000, monotonicMs: 10 })
    const before = [clock.now(), clock.monotonic()]
    await sleep(systemClock, 5)
    expect([clock.now(), clock.monotonic()]).to.deep.equal(before).and.deep.equal([1_000_000, 10])
  })

  it('a timer fires at its own instant, not before and not late', async () => {
    const clock = new TestClock()
    const startMs = clock.monotonic()
    const seen: number[] = []
    for (const ms of [300, 100, 200]) clock.setTimer(ms, () => seen.push(clock.monotonic() - startMs))
    await clock.advance(99)
    expect(seen).to.deep.equal([])
    await clock.advance(1)
    expect(seen).to.deep.equal([100])
    await clock.advance(1000)
    expect(seen).to.deep.equal([100, 200, 300])
    expect(clock.monotonic() - startMs).to.equal(1100)
    expect(clock.now()).to.equal(new TestClock().now() + 1100)
  })

  it('timers of one instant fire in the order in which they were set, promises of one before the next', async () => {
    const clock = new TestClock()
    const seen: string[] = []
    for (const name of ['a', 'b', 'c']) {
      clock.setTimer(10, () => {
        seen.push(name)
        void Promise.resolve().then(() => Promise.resolve().then(() => seen.push(`${name}'`)))
      })
    }
    await clock.advance(10)
    expect(seen).to.deep.equal(['a', "a'", 'b', "b'", 'c', "c'"])
  })

  it('a loop that re-arms after awaiting runs at every instant that one advance passes', async () => {
    const clock = new TestClock()
    const seen: number[] = []
    const startMs = clock.monotonic()
    const loop = async (): Promise<void> => {
      while (seen.length < 5) {
        await sleep(clock, 10)
        await sleep(clock, 0)
        for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve))
        for (let hop = 0; hop < 20; hop++) await Promise.resolve()
        seen.push(clock.monotonic() - startMs)
      }
    }
    const running = loop()
    await clock.advance(50)
    expect(seen).to.deep.equal([10, 20, 30, 40, 50])
    await running
    expect(clock.pending).to.equal(0)
  })

  it('a cancelled timer does not fire, and is not pending', async () => {
    const clock = new TestClock()
    let fired = 0
    const timers = Array.from({ length: 200 }, (_, index) => clock.setTimer(10 + (index % 7), () => fired++))
    for (const timer of timers.slice(0, 150)) timer.cancel()
    timers[0]?.cancel()
    expect(clock.pending).to.equal(50)
    await clock.advance(100)
    expect(fired).to.equal(50)
    for (const timer of timers) timer.cancel()
    expect(clock.pending).to.equal(0)
    expect(clock.fired).to.equal(50)
  })

  it('keeps thousands of timers in order, whatever is cancelled in between', async () => {
    const clock = new TestClock()
    const startMs = clock.monotonic()
    const seen: number[] = []
    const asked: number[] = []
    for (let index = 0; index < 3000; index++) {
      const ms = 1 + ((index * 7919) % 500)
      const timer = clock.setTimer(ms, () => seen.push(clock.monotonic() - startMs))
      if (index % 3 !== 0) timer.cancel()
      else asked.push(ms)
    }
    await clock.advance(500)
    expect(seen).to.deep.equal(asked.toSorted((a, b) => a - b))
  })

  it('a zero or negative delay fires by itself, in a later turn, without time passing', async () => {
    const clock = new TestClock()
    const startMs = clock.monotonic()
    const seen: string[] = []
    clock.setTimer(0, () => {
      seen.push('first')
      clock.setTimer(-5, () => seen.push('second'))
    })
    await Promise.resolve()
    expect(seen).to.deep.equal([])
    await clock.settle()
    expect(seen).to.deep.equal(['first', 'second'])
    expect(clock.monotonic()).to.equal(startMs)
  })

  it('a program that spins on zero delays is found out, not waited for', async () => {
    const clock = new TestClock()
    let stop = false
    const spin = (): void => {
      if (!stop) clock.setTimer(0, spin)
    }
    spin()
    const error = await clock.settle().then(
      () => undefined,
      (error: unknown) => error,
    )
    stop = true
    expect(error).to.be.an('error').with.property('message').that.includes('spins')
  })

  it('takes a delay of years, and no delay that is not finite', async () => {
    const clock = new TestClock()
    const years = track(sleep(clock, 50 * 365 * 86_400_000))
    await clock.advance({ days: 49 * 365 })
    expect(years.state).to.equal('pending')
    await clock.advance({ days: 365 })
    expect(years.state).to.equal('fulfilled')
    expect(() => clock.setTimer(Number.POSITIVE_INFINITY, () => {})).to.throw(RangeError)
    expect(() => clock.setTimer(Number.NaN, () => {})).to.throw(RangeError)
  })

  it('fractions of a millisecond leave both clocks exact, so that a deadline that was reached is reached', async () => {
    const clock = new TestClock()
    const startMs = clock.monotonic()
    const wallMs = clock.now()
    for (let step = 0; step < 100; step++) {
      const woken = track(sleep(clock, 0.1 + step / 7))
      const dueMs = clock.monotonic() + 0.1 + step / 7
      await clock.advanceToNext()
      expect(woken.state).to.equal('fulfilled')
      expect(clock.monotonic()).to.be.within(dueMs, dueMs + 0.001)
      expect(clock.now() - wallMs).to.equal(clock.monotonic() - startMs)
    }
  })
})

describe('TestClock: the ways in which the clocks of a machine move', () => {
  it('pause moves both clocks and fires what was missed afterwards, in order and late', async () => {
    const clock = new TestClock()
    const startMs = clock.monotonic()
    const wallMs = clock.now()
    const seen: [number, number][] = []
    for (const ms of [20, 10, 90]) clock.setTimer(ms, () => seen.push([ms, clock.monotonic() - startMs]))
    await clock.pause(60)
    expect(seen).to.deep.equal([
      [10, 60],
      [20, 60],
    ])
    expect(clock.now() - wallMs).to.equal(60)
    expect(clock.pending).to.equal(1)
  })

  it('pause strikes at once: what was under way finishes after it', async () => {
    const clock = new TestClock()
    const work = (async () => {
      await Promise.resolve()
      return clock.monotonic()
    })()
    const startMs = clock.monotonic()
    await clock.pause(1000)
    expect(await work).to.equal(startMs + 1000)
  })

  it('advance lets what was under way finish first', async () => {
    const clock = new TestClock()
    const startMs = clock.monotonic()
    const work = (async () => {
      await sleep(clock, 0)
      return clock.monotonic()
    })()
    await clock.advance(1000)
    expect(await work).to.equal(startMs)
  })

  it('suspend moves the wall clock only: timers are as far away as before', async () => {
    const clock = new TestClock()
    const [startMs, wallMs] = [clock.monotonic(), clock.now()]
    const woken = track(sleep(clock, 50))
    await clock.suspend({ hours: 1 })
    expect([clock.monotonic() - startMs, clock.now() - wallMs, clock.nextDelayMs]).to.deep.equal([0, 3_600_000, 50])
    await clock.advance(50)
    expect(woken.state).to.equal('fulfilled')
  })

  it('the wall clock can be set back, and only the wall clock', async () => {
    const clock = new TestClock()
    const [startMs, wallMs] = [clock.monotonic(), clock.now()]
    await clock.jumpWall(-10_000)
    expect([clock.monotonic() - startMs, clock.now() - wallMs]).to.deep.equal([0, -10_000])
    let error: unknown
    await clock.suspend(-1).catch((thrown: unknown) => (error = thrown))
    expect(error).to.be.instanceOf(RangeError)
  })

  it('timers can be early or late, and anyone who sets the rest again gets on', async () => {
    for (const timersLateMs of [-1, 3]) {
      const clock = new TestClock({ timersLateMs })
      const untilMs = clock.monotonic() + 10
      const waits: number[] = []
      const loop = (async () => {
        while (clock.monotonic() < untilMs) {
          waits.push(untilMs - clock.monotonic())
          await sleep(clock, untilMs - clock.monotonic())
        }
      })()
      await clock.drive(loop)
      expect(waits).to.deep.equal(timersLateMs < 0 ? [10, 1] : [10])
      expect(clock.monotonic()).to.equal(untilMs + Math.max(0, timersLateMs))
    }
  })
})

describe('TestClock: waiting for the program under test', () => {
  it('untilSleeping resolves when enough timers wait, and says what is missing otherwise', async () => {
    const clock = new TestClock()
    void sleep(clock, 10)
    void sleep(clock, 0).then(() => sleep(clock, 20))
    await clock.untilSleeping(2)
    expect([clock.pending, clock.nextDelayMs]).to.deep.equal([2, 10])
    const error = await clock.untilSleeping(3, 50).then(
      () => undefined,
      (error: unknown) => error,
    )
    expect(error).to.be.an('error').with.property('message', 'waited for 3 pending timers, but only 2 are')
  })

  it('untilSleeping waits for real input and output too', async () => {
    const clock = new TestClock()
    void sleep(systemClock, 30).then(() => sleep(clock, 10))
    await clock.untilSleeping()
    expect(clock.nextDelayMs).to.equal(10)
  })

  it('drive lets as much time pass as the work needs, and no more', async () => {
    const clock = new TestClock()
    const startMs = clock.monotonic()
    void sleep(clock, 100_000)
    const work = (async () => {
      for (const ms of [10, 200, 3000]) await sleep(clock, ms)
      return 'done'
    })()
    expect(await clock.drive(work)).to.equal('done')
    expect(clock.monotonic() - startMs).to.equal(3210)
  })

  it('drive rejects with what the work rejected with, and when time cannot help', async () => {
    const clock = new TestClock()
    const outcome = (work: Promise<unknown>): Promise<string> =>
      clock.drive(work, 1000).then(
        () => 'resolved',
        (error: Error) => error.message,
      )
    expect(await outcome(sleep(clock, 5).then(() => Promise.reject(new Error('mine'))))).to.equal('mine')
    expect(await outcome(new Promise(() => {}))).to.include('no timer is pending')
    expect(await outcome(sleep(clock, 5000))).to.include('not done after 1000 ms')
  })

  it('advanceTo takes an instant of either clock, advanceToNext goes to the next timer', async () => {
    const clock = new TestClock()
    const startMs = clock.monotonic()
    const expiry = clock.in({ seconds: 30 })
    await clock.jumpWall(-5000)
    await clock.advanceTo(expiry)
    expect([clock.now(), clock.monotonic() - startMs]).to.deep.equal([expiry.toMillis(), 35_000])
    await clock.advanceTo(startMs + 40_000)
    expect(clock.monotonic() - startMs).to.equal(40_000)
    void sleep(clock, 7)
    expect(await clock.advanceToNext()).to.equal(7)
    for (const impossible of [clock.advanceTo(startMs), clock.advance(-1), clock.advanceToNext()]) {
      let error: unknown
      await impossible.catch((thrown: unknown) => (error = thrown))
      expect(error).to.be.an('error')
    }
  })

  it('two movements at once are a mistake of the test, and reported as one', async () => {
    const clock = new TestClock()
    const first = clock.advance(10)
    let error: unknown
    await clock.advance(10).catch((thrown: unknown) => (error = thrown))
    expect(error).to.be.an('error').with.property('message').that.includes('moved already')
    await first
    await clock.advance(10)
  })

  it('what a wake-up throws rejects the movement that woke it', async () => {
    const clock = new TestClock()
    clock.setTimer(5, () => {
      throw new Error('boom')
    })
    let error: unknown
    await clock.advance(10).catch((thrown: unknown) => (error = thrown))
    expect(error).to.be.an('error').with.property('message', 'boom')
    await clock.advance(10)
  })
})

describe('track: looks at a promise without waiting for it', () => {
  it('shows pending, fulfilled and rejected, and no rejection is unhandled', async () => {
    const clock = new TestClock()
    const good = track(sleep(clock, 5).then(() => 'value'))
    const bad = track(sleep(clock, 5).then(() => Promise.reject(new Error('bad'))))
    expect([good.state, bad.state]).to.deep.equal(['pending', 'pending'])
    await clock.advance(5)
    expect([good.state, good.value]).to.deep.equal(['fulfilled', 'value'])
    expect([bad.state, (bad.error as Error).message]).to.deep.equal(['rejected', 'bad'])
  })
})
