/** What a command works with. */
import { CommandEnd, EXIT } from './exit-codes.ts'
import { parseDuration } from './durations.ts'
import type { Io } from './io.ts'
import { Output } from './output.ts'
import { SettingsReader, type CommonFlags, type Settings } from './settings.ts'
import { openStore, type OpenOptions, type Store } from './store.ts'

/** Opens a store; a test gives one of its own. */
export type OpenStore = (settings: Settings, options: OpenOptions) => Promise<Store>

/** What one run of a command works with. */
export class Context {
  readonly io: Io
  readonly out: Output
  readonly settings: SettingsReader
  /** Whether warnings about the set-up of the store are printed, and what a wait looks like. */
  readonly verbose: boolean
  readonly #retryMs: number
  readonly #open: OpenStore

  constructor(io: Io, flags: CommonFlags, open: OpenStore = openStore) {
    this.io = io
    this.#open = open
    this.verbose = flags.verbose === true
    this.out = new Output(io, { json: flags.json === true, color: flags.color ?? 'auto' })
    this.settings = new SettingsReader(io, flags)
    const { retry } = flags
    if (retry === undefined || retry === false) this.#retryMs = 0
    else
      this.#retryMs = retry === true || retry === 'forever' ? Number.POSITIVE_INFINITY : parseDuration(retry, '--retry')
  }

  /** Opens the store, calls the body, and closes the store. */
  async withStore<T>(body: (store: Store, signal: AbortSignal) => Promise<T>, options: StoreOptions = {}): Promise<T> {
    const { admin = false, needsNamespace = true } = options
    const settings = await this.settings.read({ admin })
    const interrupt = this.interrupts()
    try {
      const store = await this.open(settings, { signal: interrupt.signal, needsNamespace, requestMs: READ_MS })
      const endWarnings = store.events.subscribe((event) => {
        if (event.type === 'warning' && this.verbose) this.out.warn(event.message)
      })
      try {
        return await body(store, interrupt.signal)
      } finally {
        endWarnings()
        await store.close()
      }
    } finally {
      interrupt.end()
    }
  }

  /** Opens the store; the caller closes it. */
  async open(
    settings: Settings,
    options: Pick<OpenOptions, 'signal' | 'needsNamespace' | 'requestMs'>,
  ): Promise<Store> {
    let isSaid = false
    return this.#open(settings, {
      clock: this.io.clock,
      retryMs: this.#retryMs,
      ...options,
      retrying: (cause) => {
        if (!isSaid) this.out.note(`lease: waiting for the server: ${cause}`)
        isSaid = true
      },
    })
  }

  /** Aborts with the exit code of the signal when the command is interrupted. */
  interrupts(): { readonly signal: AbortSignal; end(): void } {
    const controller = new AbortController()
    const ends = (Object.keys(INTERRUPTS) as (keyof typeof INTERRUPTS)[]).map((name) =>
      this.io.onSignal(name, () => controller.abort(new CommandEnd(128 + INTERRUPTS[name]))),
    )
    return { signal: controller.signal, end: () => ends.forEach((end) => end()) }
  }

  /** @throws CommandEnd 77: writes are refused here */
  async mustWrite(): Promise<void> {
    const why = await this.settings.readOnly()
    if (why !== undefined) throw new CommandEnd(EXIT.readOnly, `refused: ${why}, and this command writes`)
  }

  /** The wall clock, in milliseconds. */
  now(): number {
    return this.io.clock.now()
  }

  /**
   * Asks a person to type `word`, unless `--yes` was given.
   *
   * @throws CommandEnd 64: nobody can be asked. 1: another word was typed
   */
  async confirm(
    question: string,
    word: string,
    { yes, signal }: { readonly yes: boolean; readonly signal: AbortSignal },
  ): Promise<void> {
    if (yes) return
    if (!this.io.asks) {
      throw new CommandEnd(
        EXIT.usage,
        'refused: nobody can be asked to confirm this, because stdin or stderr is no terminal',
        'give --yes, or look first with --dry-run',
      )
    }
    const typed = await this.io.ask(`${question}\nType ${this.out.bold(word)} to go on: `, signal)
    if (typed.trim() !== word) throw new CommandEnd(EXIT.no, 'not confirmed: nothing was changed')
  }
}

/** A namespace with a hundred thousand leases takes a slow server more than the usual five seconds. */
const READ_MS = 30_000

/** Signals that interrupt a command, with their numbers. */
export const INTERRUPTS = { SIGINT: 2, SIGTERM: 15, SIGHUP: 1 } as const

interface StoreOptions {
  /** Whether the URL of the role that migrates goes before the other. */
  readonly admin?: boolean
  readonly needsNamespace?: boolean
}
