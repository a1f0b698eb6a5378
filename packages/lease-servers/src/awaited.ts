/**
 * What tests of this process are waiting for. A wait has no limit of its own, mocha's is the only one: when that runs out, the
 * report of the failure says what was awaited, and what was seen last.
 */

const awaited = new Set<() => string>()

/** The longest pause between two looks, where nothing else is said. */
const LONGEST_PAUSE_MS = 50
/** A look costs a store and its driver as much as an operation: the pauses grow with the time that was waited already. */
const PART_OF_WAIT = 0.1

/**
 * Looks again and again until the condition is truthy, and resolves to that value.
 *
 * @param everyMs the first pauses; later ones are as long as a tenth of the wait so far, and at most 50 milliseconds, or `everyMs`
 * @throws what the condition throws
 */
export async function until<T>(
  what: string,
  condition: () => T | Promise<T>,
  everyMs: number = 5,
): Promise<Exclude<T, false | undefined | null | 0 | ''>> {
  let last: T | undefined
  const entry = (): string => `${what} (last seen: ${shown(last)})`
  awaited.add(entry)
  const startedMs = performance.now()
  try {
    for (;;) {
      last = await condition()
      if (last) return last as Exclude<T, false | undefined | null | 0 | ''>
      const pauseMs = Math.min(LONGEST_PAUSE_MS, PART_OF_WAIT * (performance.now() - startedMs))
      await new Promise((resolve) => setTimeout(resolve, Math.max(everyMs, pauseMs)))
    }
  } finally {
    awaited.delete(entry)
  }
}

/** What is being awaited now, with what was seen last. */
export function whatIsAwaited(): readonly string[] {
  return [...awaited].map((entry) => entry())
}

function shown(value: unknown): string {
  return typeof value === 'object' && value !== null ? JSON.stringify(value, bigintsAsText) : String(value)
}

function bigintsAsText(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? `${value}n` : value
}
