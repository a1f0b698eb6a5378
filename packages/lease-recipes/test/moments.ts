/** Moments at which a call can be aborted: between any two steps of it. */

/** Every number of ticks and microtasks up to these. */
export function moments(ticks: number, microtasks: number): readonly (() => Promise<void>)[] {
  return Array.from({ length: ticks * microtasks }, (_, index) => async () => {
    for (let tick = 0; tick < Math.floor(index / microtasks); tick++) {
      await new Promise<void>((resolve) => process.nextTick(resolve))
    }
    for (let turn = 0; turn < index % microtasks; turn++) await Promise.resolve()
  })
}
