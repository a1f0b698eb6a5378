/** A terminal or a pipe that keeps what is written, for commands that run in this process on leases in memory. */
import { LeaseEvents, Manager, MemoryStore, memoryClient, MemorySubstrate, systemClock, type Clock } from 'lease-core'
import { TestClock } from 'lease-core/testing'
import type { OpenStore } from '#src/context.ts'
import type { Io, Sink } from '#src/io.ts'
import { run } from '#src/run.ts'

/** What a test sets. */
export interface ScreenOptions {
  readonly isTTY?: boolean
  readonly columns?: number
  readonly env?: Readonly<Record<string, string>>
  readonly cwd?: string
  /** What is typed when somebody is asked. @default nobody can be asked */
  readonly typed?: string
}

/** What a command has printed. */
export interface Printed {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/** Leases in memory, a clock that stands still, and the command on them. */
export class World {
  readonly clock: TestClock = new TestClock()
  readonly store: MemoryStore = new MemoryStore({ clock: this.clock })
  /** Of a program beside the command. */
  readonly manager: Manager = this.#manager(new LeaseEvents())

  /** Runs before a command pins a lease: its process may stand still there. */
  beforePin = async (): Promise<void> => {}

  /** Runs a command to its end. */
  async lease(args: readonly string[], options: ScreenOptions = {}): Promise<Printed> {
    return this.start(args, options).done
  }

  /** Runs a command; what it has printed so far can be read. */
  start(args: readonly string[], options: ScreenOptions = {}): Running {
    const running = new Running(this.clock, options)
    const open: OpenStore = async (settings) => {
      const events = new LeaseEvents()
      const client = memoryClient({ store: this.store, clock: this.clock, events, namespace: 'x' })
      const manager = new Manager({ client, clock: this.clock, events })
      const pin = manager.pin.bind(manager)
      manager.pin = async (...call) => {
        await this.beforePin()
        await pin(...call)
      }
      return {
        kind: 'memory',
        address: 'memory',
        namespace: settings.namespace ?? 'x',
        manager,
        client,
        events,
        substrate: () => new MemorySubstrate({ store: this.store, namespace: 'x' }),
        close: () => manager.stop(),
      }
    }
    running.done = run(args, running.io, open).then((code) => ({
      code,
      stdout: running.stdout,
      stderr: running.stderr,
    }))
    return running
  }

  #manager(events: LeaseEvents): Manager {
    const client = memoryClient({ store: this.store, clock: this.clock, events, namespace: 'x' })
    return new Manager({ client, clock: this.clock, events })
  }
}

/** Runs a command in this process, on the server that its environment names. */
export async function leaseHere(args: readonly string[], env: Readonly<Record<string, string>>): Promise<Printed> {
  const running = new Running(systemClock, { env })
  const code = await run(args, running.io)
  return { code, stdout: running.stdout, stderr: running.stderr }
}

/** A command that runs. */
export class Running {
  stdout = ''
  stderr = ''
  done!: Promise<Printed>
  readonly io: Io
  readonly #listeners = new Map<string, () => void>()

  constructor(clock: Clock, { isTTY = false, columns, env = {}, cwd = '/', typed }: ScreenOptions) {
    this.io = {
      stdout: this.#sink('stdout', isTTY, columns),
      stderr: this.#sink('stderr', isTTY, columns),
      asks: typed !== undefined,
      ask: async (question) => {
        this.stderr += question
        return typed ?? ''
      },
      env: { LEASE_URL: 'redis://memory', LEASE_NAMESPACE: 'x', LEASE_AS: 'ann@desk', ...env },
      cwd,
      clock,
      onSignal: (signal, listener) => {
        this.#listeners.set(signal, listener)
        return () => void this.#listeners.delete(signal)
      },
    }
  }

  /** As if the process got this signal. */
  signal(signal: NodeJS.Signals): void {
    this.#listeners.get(signal)?.()
  }

  #sink(name: 'stdout' | 'stderr', isTTY: boolean, columns: number | undefined): Sink {
    return {
      write: (text) => {
        this[name] += text
        return true
      },
      drained: async () => {},
      isTTY,
      columns,
    }
  }
}
