import { expect } from 'chai'
import { TimerQueue, type Deadline } from '#src/timer-queue.ts'
import { TestClock } from '#src/testing/index.ts'

function deadline(wake: () => void): Deadline {
  return { wakeAtMs: -1, wake }
}

describe('TimerQueue: many wake-ups, one timer (decision 19)', () => {
  it('wakes each at its time, in the order of their times, with one timer', async () => {
    const clock = new TestClock({ monotonicMs: 0 })
    const timers = new TimerQueue(clock)
    const woken: string[] = []
    for (const ms of [300, 100, 500, 200, 400]) {
      timers.at(
        deadline(() => woken.push(`${ms}@${clock.monotonic()}`)),
        ms,
      )
    }
    expect(clock.pending).to.equal(1)
    await clock.advance(1000)
    expect(woken).to.deep.equal(['100@100', '200@200', '300@300', '400@400', '500@500'])
    expect(clock.pending).to.equal(0)
  })

  it('keeps ten thousand in order, those moved and taken off included', async () => {
    const clock = new TestClock({ monotonicMs: 0 })
    const timers = new TimerQueue(clock)
    let lastMs = 0
    let wrong = 0
    let woken = 0
    const deadlines = Array.from({ length: 10_000 }, () => {
      const own: Deadline & { dueMs: number } = {
        wakeAtMs: -1,
        dueMs: 0,
        wake: () => {
          woken++
          if (own.dueMs !== clock.monotonic() || clock.monotonic() < lastMs) wrong++
          lastMs = clock.monotonic()
        },
      }
      return own
    })
    for (let round = 1; round <= 3; round++) {
      for (const [index, own] of deadlines.entries()) timers.at(own, (own.dueMs = 1 + ((index * 7919 * round) % 997)))
    }
    for (const own of deadlines.slice(0, 5000)) timers.off(own)
    await clock.advance(1000)
    expect({ woken, wrong, pending: clock.pending }).to.deep.equal({ woken: 5000, wrong: 0, pending: 0 })
  })

  it('decision 8: when the last is taken off no timer is left', async () => {
    const clock = new TestClock()
    const timers = new TimerQueue(clock)
    const [a, b] = [deadline(() => {}), deadline(() => {})]
    timers.at(a, 9000)
    timers.at(b, 8000)
    timers.off(b)
    timers.off(b)
    expect(clock.pending).to.equal(1)
    timers.off(a)
    expect(clock.pending).to.equal(0)
  })

  it('moving a deadline replaces its time; the earlier one is not woken', async () => {
    const clock = new TestClock({ monotonicMs: 0 })
    const timers = new TimerQueue(clock)
    const woken: number[] = []
    const moved = deadline(() => woken.push(clock.monotonic()))
    timers.at(moved, 100)
    timers.at(moved, 300)
    timers.at(moved, 200)
    await clock.advance(1000)
    expect(woken).to.deep.equal([200])
  })

  it('a deadline that is taken off and put on again while others are woken is woken', async () => {
    const clock = new TestClock({ monotonicMs: 0 })
    const timers = new TimerQueue(clock)
    const woken: string[] = []
    const other = deadline(() => woken.push('other'))
    const first = deadline(() => {
      woken.push('first')
      timers.off(other)
      timers.at(other, 100)
    })
    timers.at(first, 100)
    timers.at(other, 5000)
    await clock.advance(200)
    expect(woken).to.deep.equal(['first', 'other'])
    expect(clock.pending).to.equal(0)
  })

  it('decision 3: a timer that fires early arms again and never spins', async () => {
    const clock = new TestClock({ monotonicMs: 0, timersLateMs: -0.5 })
    const timers = new TimerQueue(clock)
    const woken: number[] = []
    timers.at(
      deadline(() => woken.push(clock.monotonic())),
      1000,
    )
    await clock.advance(2000)
    expect(woken.length).to.equal(1)
    expect(woken[0]).to.be.within(1000, 1001)
    expect(clock.fired).to.be.at.most(3)
  })

  it('decision 3: a time further away than 2³¹ − 1 ms is kept', async () => {
    const clock = new TestClock({ monotonicMs: 0 })
    const timers = new TimerQueue(clock)
    let woken = 0
    timers.at(
      deadline(() => woken++),
      2 ** 33,
    )
    await clock.advance(2 ** 33 - 1)
    expect(woken).to.equal(0)
    await clock.advance(1)
    expect(woken).to.equal(1)
  })

  it('thousands due at once are woken over several turns, all of them', async () => {
    const clock = new TestClock({ monotonicMs: 0 })
    const timers = new TimerQueue(clock)
    let woken = 0
    for (let index = 0; index < 3000; index++)
      timers.at(
        deadline(() => woken++),
        100,
      )
    await clock.advance(100)
    expect(woken).to.equal(3000)
    expect(clock.fired).to.be.greaterThan(1)
  })

  it('clear() wakes nobody and leaves no timer', async () => {
    const clock = new TestClock({ monotonicMs: 0 })
    const timers = new TimerQueue(clock)
    const own = deadline(() => expect.fail('woken'))
    timers.at(own, 100)
    timers.clear()
    expect([clock.pending, own.wakeAtMs]).to.deep.equal([0, -1])
    await clock.advance(1000)
  })
})
