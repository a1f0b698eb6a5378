/**
 * What runs as soon as the present code has ended. These are Node's own functions, kept at the import: fake timers of a test framework may
 * replace the global ones, and then nothing would go on before the test moves the time.
 */
export const queueMicrotask: (callback: () => void) => void = globalThis.queueMicrotask
export const nextTick: (callback: () => void) => void = process.nextTick.bind(process)

// oxlint-disable-next-line no-restricted-properties -- the event loop itself, and no span of time
const setImmediate: (callback: () => void) => unknown = globalThis.setImmediate

/** Resolves with the next turn of the event loop, when all promises that could run have run. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
