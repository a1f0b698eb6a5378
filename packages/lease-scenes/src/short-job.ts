/** A short job: what it opened must not keep its process alive. */
import { expect } from 'chai'
import { Manager, systemClock, type Client, type Clock, type Timer } from 'lease-core'
import { unique } from './words.ts'

/** The clocks of the machine, and how many of their timers have neither fired nor been cancelled. */
class CountedTimers implements Clock {
  readonly #live = new Set<Timer>()

  get live(): number {
    return this.#live.size
  }

  now(): number {
    return systemClock.now()
  }

  monotonic(): number {
    return systemClock.monotonic()
  }

  setTimer(ms: number, callback: () => void): Timer {
    const timer = systemClock.setTimer(ms, () => {
      this.#live.delete(counted)
      callback()
    })
    const counted: Timer = {
      cancel: () => {
        this.#live.delete(counted)
        timer.cancel()
      },
    }
    this.#live.add(counted)
    return counted
  }
}

/** Holds, releases, stops and closes, in the order of "Stopping in order", and expects no timer to be left, however soon that is. */
export async function leavesNoTimer(open: (clock: Clock) => Client): Promise<void> {
  for (const work of ['nothing', 'a hold', 'a wait that runs out']) {
    const clock = new CountedTimers()
    const client = open(clock)
    const manager = new Manager({ client, clock })
    const lease = unique('l')
    if (work !== 'nothing') {
      const hold = await manager.hold(lease, 'me', { duration: { seconds: 30 } })
      if (work !== 'a hold') {
        await manager.hold(lease, 'other', { duration: { seconds: 30 }, wait: { milliseconds: 50 } }).catch(() => {})
      }
      await hold.release()
    }
    await manager.stop()
    await client.close()
    expect(clock.live, `timers after ${work}`).to.equal(0)
  }
}
