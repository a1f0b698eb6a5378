/**
 * Servers that all test files of a run share: each is started once, by mocha's global setup, and only if some file that was
 * loaded has asked for it.
 */

/** A server that the run may need. */
export interface Shared<T> {
  readonly name: string
  /** Makes the global setup start it; call it while the test file is loaded, outside of any hook or test. */
  ask(): void
  /** How to reach it, from the first `before` hook on. @throws before that. */
  readonly reached: T
}

/** A server that has been started or found. */
export interface Opened<T> {
  /** How to reach it; JSON, because it goes to the processes that run test files. */
  readonly reached: T
  stop(): Promise<void>
}

/** How to reach another server that has been asked for too, once it is open. */
export type Reach = <T>(other: Shared<T>) => Promise<T>

const variable = 'LEASE_SERVERS_TARGETS'
const asked = new Map<string, (reach: Reach) => Promise<Opened<unknown>>>()

/** A server that this function starts if it is asked for. */
export function shared<T>(name: string, open: (reach: Reach) => Promise<Opened<T>>): Shared<T> {
  return {
    name,
    ask: () => void asked.set(name, open),
    get reached() {
      const all = JSON.parse(process.env[variable] ?? '{}') as Readonly<Record<string, T>>
      const one = all[name]
      if (one === undefined) throw new Error(`no ${name} yet: ask while the file loads, use the target in before()`)
      return one
    },
  }
}

/** The names of the servers that have been asked for in this process. */
export function askedServers(): readonly string[] {
  return [...asked.keys()]
}

/** Lets the targets of this process find servers that another process has opened: the text of {@link Servers.targets}. */
export function provideTargets(targets: string): void {
  process.env[variable] = targets
}

/** Opens servers that have been asked for in this process, each once, and stops them in the end. */
export class Servers {
  readonly #opened = new Map<string, Promise<Opened<unknown>>>()

  /** How to reach these, for {@link provideTargets}. @throws with a hint when one cannot be had */
  async targets(names: readonly string[]): Promise<string> {
    const reached = await Promise.all(names.map(async (name) => [name, (await this.#open(name)).reached] as const))
    return JSON.stringify(Object.fromEntries(reached))
  }

  /** Stops all that were opened, also those that are still starting. */
  async stop(): Promise<void> {
    const opened = await Promise.allSettled(this.#opened.values())
    await Promise.all(opened.map(async (one) => (one.status === 'fulfilled' ? one.value.stop() : undefined)))
  }

  async #open(name: string): Promise<Opened<unknown>> {
    const open = asked.get(name)
    if (open === undefined) throw new Error(`there is no server called ${name}`)
    const reach: Reach = async <T>(other: Shared<T>) => (await this.#open(other.name)).reached as T
    const opened = this.#opened.get(name) ?? open(reach)
    this.#opened.set(name, opened)
    return await opened
  }
}

/** By then a server that an environment variable names has answered, or the run ends. */
export const ANSWER_MS = 20_000

/** Why a server that an environment variable names cannot be used, and what to do about it. */
export function unreachable(variable: string, cause: unknown): Error {
  const remedy = `start it, correct ${variable}, or unset ${variable} to have servers started`
  return new Error(`what ${variable} names cannot be reached (${reasonOf(cause)}): ${remedy}`, { cause })
}

/** What to stop of a server that is not ours. */
export async function nothing(): Promise<void> {
  await Promise.resolve()
}

/** Node reports a refused connection by its code, and without a message when it has tried several addresses. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return 'code' in error && error.message === '' ? String(error.code) : (error.message.split('\n')[0] ?? '')
}
