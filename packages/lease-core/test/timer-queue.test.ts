import { expect } from 'chai'
import { TimerQueue, type Deadline } from '#src/timer-queue.ts'
import type { Clock, Timer } from '#src/clock.ts'
import { TestClock } from '#src/testing/index.ts'
import { collectGarbage, heapUsed } from './garbage.ts'

function deadline(wake: () => void): Deadline {
  return { wakeAtMs: -1, slot: 0, wake }
}

function urgent(wake: () => void): Deadline {
  return { wakeAtMs: -1, slot: 0, urgent: true, wake }
}

describe('TimerQueue: many deadlines, one timer', () => {
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
        slot: 0,
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

  it('when the last is taken off no timer is left', async () => {
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

  it('a timer that fires early arms again and never spins', async () => {
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

  it('a time further away than 2³¹ − 1 ms is kept', async () => {
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

  it('a deadline that is removed is not referenced any more, however many wait', async () => {
    const timers = new TimerQueue(new TestClock({ monotonicMs: 0 }))
    const deadlines = Array.from({ length: 5_000 }, () => deadline(() => {}))
    for (const [index, own] of deadlines.entries()) timers.at(own, 1_000 + (index % 700))
    const removed = deadlines.splice(0, 50).map((own) => {
      timers.off(own)
      return new WeakRef(own)
    })
    await collectGarbage()
    expect(removed.filter((ref) => ref.deref() !== undefined)).to.deep.equal([])
    for (const [index, own] of deadlines.entries()) timers.at(own, 2_000 + (index % 700))
    timers.clear()
    expect(deadlines.every(({ wakeAtMs }) => wakeAtMs === -1)).to.equal(true)
  })

  it('memory does not grow when deadlines are moved again and again', async () => {
    const timers = new TimerQueue(new TestClock({ monotonicMs: 0 }))
    const deadlines = Array.from({ length: 100 }, () => deadline(() => {}))
    const move = (round: number): void => {
      for (const [index, own] of deadlines.entries()) timers.at(own, round * 1_000 + index)
    }
    for (let round = 1; round < 100; round++) move(round)
    const before = await heapUsed()
    for (let round = 100; round < 5_000; round++) move(round)
    expect((await heapUsed()) - before).to.be.lessThan(1_000_000)
  })

  it('a deadline that throws is reported; the others are woken, and the timer is set again', async () => {
    const clock = new TestClock({ monotonicMs: 0 })
    const reported: unknown[] = []
    const timers = new TimerQueue(clock, (error) => reported.push(error))
    const woken: string[] = []
    const thrown = [new Error('urgent'), new Error('other')] as const
    for (const [make, error] of [
      [urgent, thrown[0]],
      [deadline, thrown[1]],
    ] as const) {
      for (const name of ['before', 'after']) {
        timers.at(
          make(() => woken.push(name)),
          100,
        )
        if (name === 'before')
          timers.at(
            make(() => {
              throw error
            }),
            100,
          )
      }
    }
    timers.at(
      deadline(() => woken.push('later')),
      200,
    )
    await clock.advance(300)
    expect(woken.toSorted()).to.deep.equal(['after', 'after', 'before', 'before', 'later'])
    expect(reported).to.deep.equal(thrown)
    expect(clock.pending).to.equal(0)
  })

  it('the timer is set again also when the report of an error throws', async () => {
    const clock = new TestClock({ monotonicMs: 0 })
    const timers = new TimerQueue(clock, (error) => {
      throw error
    })
    let woken = 0
    timers.at(
      deadline(() => {
        throw new Error('bad')
      }),
      100,
    )
    timers.at(
      deadline(() => woken++),
      200,
    )
    const uncaught = clock.advance(150).catch((error: unknown) => error)
    expect(await uncaught).to.have.property('message', 'bad')
    await clock.advance(100)
    expect(woken).to.equal(1)
  })

  it('what a deadline throws is a warning of the process unless somebody else takes it', async () => {
    const clock = new TestClock({ monotonicMs: 0 })
    const timers = new TimerQueue(clock)
    const warned = new Promise((resolve) => process.once('warning', resolve))
    const error = new Error('a bad deadline')
    timers.at(
      deadline(() => {
        throw error
      }),
      100,
    )
    await clock.advance(100)
    expect(await warned).to.equal(error)
  })
})

describe('TimerQueue: urgent deadlines', () => {
  it('all that are due are woken in one turn, earliest first, before the others', async () => {
    const clock = new TestClock({ monotonicMs: 0 })
    const timers = new TimerQueue(clock)
    const woken: number[] = []
    let [others, othersBefore] = [0, 0]
    for (let index = 0; index < 3_000; index++)
      timers.at(
        deadline(() => others++),
        1,
      )
    for (let index = 0; index < 3_000; index++) {
      const dueMs = 1 + ((index * 7919) % 997)
      timers.at(
        urgent(() => ((othersBefore += others), woken.push(dueMs))),
        dueMs,
      )
    }
    expect(clock.pending).to.equal(1)
    const firedBefore = clock.fired
    let fired = 0
    timers.at(
      urgent(() => (fired = clock.fired - firedBefore)),
      1_000,
    )
    await clock.pause(2_000)
    expect({ urgent: woken.length, fired, othersBefore, others }).to.deep.equal({
      urgent: 3_000,
      fired: 1,
      othersBefore: 0,
      others: 3_000,
    })
    expect(woken).to.deep.equal(woken.toSorted((a, b) => a - b))
  })

  it('one that falls due while urgent ones are woken is woken in the same turn', async () => {
    const clock = new SlowClock()
    const timers = new TimerQueue(clock)
    const woken: string[] = []
    timers.at(
      urgent(() => (woken.push('first'), (clock.ms = 150))),
      100,
    )
    timers.at(
      urgent(() => woken.push('meanwhile')),
      150,
    )
    timers.at(
      urgent(() => woken.push('later')),
      151,
    )
    timers.at(
      deadline(() => woken.push('other')),
      100,
    )
    clock.fire(100)
    expect(woken).to.deep.equal(['first', 'meanwhile', 'other'])
  })

  it('one that falls due between two turns of a long backlog is woken before the rest of the backlog', async () => {
    const clock = new SlowClock()
    const timers = new TimerQueue(clock)
    let others = 0
    let othersBefore = -1
    for (let index = 0; index < 1_000; index++)
      timers.at(
        deadline(() => others++),
        100,
      )
    timers.at(
      urgent(() => (othersBefore = others)),
      110,
    )
    clock.fire(100)
    const oneTurn = others
    expect(oneTurn).to.be.within(1, 999)
    clock.fire(110)
    expect({ othersBefore, others }).to.deep.equal({ othersBefore: oneTurn, others: 2 * oneTurn })
  })

  it('one that fires too early and moves itself is woken exactly at its new time, with one timer', async () => {
    const clock = new TestClock({ monotonicMs: 0 })
    const timers = new TimerQueue(clock)
    const ends = new Map<Deadline, number>()
    const woken: [number, number][] = []
    for (let index = 0; index < 500; index++) {
      const own = urgent(() => {
        const endMs = ends.get(own) as number
        if (clock.monotonic() < endMs) timers.at(own, endMs)
        else woken.push([endMs, clock.monotonic()])
      })
      ends.set(own, 200 + index)
      timers.at(own, 100)
    }
    await clock.advance(1_000)
    expect(woken.length).to.equal(500)
    for (const [endMs, atMs] of woken) expect(atMs).to.equal(endMs)
    expect(clock.pending).to.equal(0)
  })

  it('those that add themselves again and again leave the event loop to others', async () => {
    const clock = new SlowClock()
    const timers = new TimerQueue(clock)
    let [times, others] = [0, 0]
    const greedy = [1, 2, 3].map(() => {
      const own = urgent(() => (times++, clock.ms++, timers.at(own, clock.ms)))
      return own
    })
    for (const own of greedy) timers.at(own, 100)
    timers.at(
      deadline(() => others++),
      100,
    )
    clock.fire(100)
    expect({ times, others }).to.deep.equal({ times: 3, others: 1 })
  })
})

/** A clock whose time goes on while deadlines are woken, and whose timer fires when the test says so. */
class SlowClock implements Clock {
  ms = 0
  #wake: (() => void) | undefined

  now(): number {
    return this.ms
  }

  monotonic(): number {
    return this.ms
  }

  setTimer(_delayMs: number, wake: () => void): Timer {
    this.#wake = wake
    return { cancel: () => (this.#wake = undefined) }
  }

  fire(atMs: number): void {
    this.ms = atMs
    const wake = this.#wake
    this.#wake = undefined
    wake?.()
  }
}
