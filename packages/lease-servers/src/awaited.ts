/**
 * What tests of this process are waiting for. A wait has no limit of its own, mocha's is the only one: when that runs out, the
 * report of the failure says what was awaited, and what was seen last.
 */

const awaited = new Set<() => string>()

/** Polls every `everyMs` until the condition is truthy, and resolves to that value. @throws what the condition throws */
export async function until<T>(
  what: string,
  condition: () => T | Promise<T>,
  everyMs: number = 5,
): Promise<Exclude<T, false | undefined | null | 0 | ''>> {
  let last: T | undefined
  const entry = (): string => `${what} (last seen: ${shown(last)})`
  awaited.add(entry)
  try {
    for (;;) {
      last = await condition()
      if (last) return last as Exclude<T, false | undefined | null | 0 | ''>
      await new Promise((resolve) => setTimeout(resolve, everyMs))
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
