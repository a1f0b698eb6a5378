import { systemClock, type Clock } from 'lease-core'

/** The machine's clocks, counting the timers that wait. */
export interface CountingClock extends Clock {
  /** Set, and neither fired nor cancelled yet. */
  timers(): number
}

export function countingClock(): CountingClock {
  const waiting = new Set<object>()
  return {
    ...systemClock, // reading it costs what it does without the counting
    setTimer(delayMs, wake) {
      const mark = {}
      waiting.add(mark)
      const timer = systemClock.setTimer(delayMs, () => {
        waiting.delete(mark)
        wake()
      })
      return {
        cancel() {
          waiting.delete(mark)
          timer.cancel()
        },
      }
    },
    timers: () => waiting.size,
  }
}
