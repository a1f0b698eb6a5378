/** The module: one Manager for the application, and its end. */
import {
  Inject,
  Module,
  type DynamicModule,
  type FactoryProvider,
  type ModuleMetadata,
  type OnApplicationShutdown,
  type BeforeApplicationShutdown,
} from '@nestjs/common'
import { Manager, type Client, type ManagerConfig } from 'lease-core'
import { OptionReader } from 'lease-core/adapter'
import type { DurationLike } from 'luxon'
import { WORKS } from './tokens.ts'
import { Works } from './works.ts'

/** What the application brings. Either `client` or `manager`. */
export interface LeaseOptions {
  /** Made by an adapter: `redisClient({ redis, namespace: 'billing' })`. The module makes a Manager over it, and closes both. */
  readonly client?: Client | undefined
  /** A Manager that is there already, that of `FakeLeases` for example. It stays yours: the module does not stop it. */
  readonly manager?: Manager | undefined
  /** Of the Manager that the module makes. @default 1 minute */
  readonly maxSleep?: ManagerConfig['maxSleep']
  /** Called at the very end, to end the connections below the client: `() => redis.quit()`. */
  readonly close?: (() => unknown) | undefined
  /** How long the works under a lease may take to end once they are aborted. A number is in milliseconds. @default 10 seconds */
  readonly shutdownTimeout?: DurationLike | undefined
}

/** As of every module of Nest that is configured by a factory. */
export interface LeaseAsyncOptions extends Pick<ModuleMetadata, 'imports'> {
  readonly useFactory: (...dependencies: never[]) => LeaseOptions | Promise<LeaseOptions>
  readonly inject?: FactoryProvider['inject']
}

const OPTIONS = ['client', 'manager', 'maxSleep', 'close', 'shutdownTimeout']
const SHUTDOWN_MS = 10_000

/**
 * Provides a `Manager` to the whole application, and lets methods run under a lease (`Lease`, `CronOncePer`).
 *
 * The end of the application (`app.close()`, or a signal after `app.enableShutdownHooks()`): those who wait for a lease end with
 * `ErrStopped`; when the servers of Nest have closed, the signals of the works abort, and the module waits for them; their leases are
 * released; then it stops the Manager, closes the client, and calls `close`.
 */
export class LeaseModule implements BeforeApplicationShutdown, OnApplicationShutdown {
  readonly #works: Works

  constructor(works: Works) {
    this.#works = works
  }

  /** @throws ErrNotValid with every problem of the options */
  static forRoot(options: LeaseOptions): DynamicModule {
    const works = worksOf(options)
    return moduleOf({ provide: WORKS, useFactory: () => works }, [])
  }

  /** The application does not start where the factory fails, or its options break a rule (ErrNotValid). */
  static forRootAsync({ imports = [], useFactory, inject = [] }: LeaseAsyncOptions): DynamicModule {
    const make = useFactory as (...dependencies: unknown[]) => LeaseOptions | Promise<LeaseOptions>
    const made = async (...dependencies: unknown[]): Promise<Works> => worksOf(await make(...dependencies))
    return moduleOf({ provide: WORKS, useFactory: made, inject }, imports)
  }

  /** For Nest. */
  beforeApplicationShutdown(): void {
    this.#works.refuse()
  }

  /** For Nest. */
  onApplicationShutdown(): Promise<void> {
    return this.#works.end()
  }
}

Module({})(LeaseModule)
Inject(WORKS)(LeaseModule, undefined, 0)

function moduleOf(works: FactoryProvider<Works>, imports: NonNullable<ModuleMetadata['imports']>): DynamicModule {
  const manager: FactoryProvider<Manager> = {
    provide: Manager,
    useFactory: ({ manager }: Works) => manager,
    inject: [WORKS],
  }
  return { module: LeaseModule, global: true, imports, providers: [works, manager], exports: [WORKS, Manager] }
}

function worksOf(given: LeaseOptions): Works {
  const options = new OptionReader(given ?? {}, OPTIONS)
  const { client, manager, maxSleep, close, shutdownTimeout } = options.read
  options.must(
    'client',
    (client === undefined) !== (manager === undefined),
    'must be given, or else a manager: LeaseModule.forRoot({ client: redisClient({ redis, namespace }) })',
  )
  if (client !== undefined) options.object('client', 'a Client, as an adapter makes it', ['claimLease', 'close'])
  if (manager !== undefined) options.object('manager', 'a Manager of lease-core', ['hold', 'stop'])
  const isUsed = maxSleep === undefined || manager === undefined
  options.must('maxSleep', isUsed, 'is of a Manager that the module makes: give it a client')
  options.function('close')
  const patienceMs = shutdownTimeout === 0 ? 0 : options.duration('shutdownTimeout', SHUTDOWN_MS)
  options.finish()
  const made = manager ?? new Manager({ client: client as Client, ...(maxSleep !== undefined && { maxSleep }) })
  return new Works({ manager: made, owned: client, close, patienceMs })
}
