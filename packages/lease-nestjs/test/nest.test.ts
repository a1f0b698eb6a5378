import { Controller, Get, Injectable, Module, type INestApplicationContext, type Type } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import { expect } from 'chai'
import { ErrClaimDenied, ErrNotValid, ErrStopped, Manager, MemoryStore, memoryClient, traces } from 'lease-core'
import type { WorkTrace } from 'lease-core'
import { FakeLeases, TestClock, track } from 'lease-core/testing'
import { until } from 'lease-servers'
import { currentLease, Lease, LeaseModule, type LeaseOptions } from 'lease-nestjs'

/** Something that a method waits for. */
class Gate {
  readonly passed: Promise<void>
  open = (): void => {}

  constructor() {
    this.passed = new Promise((resolve) => (this.open = resolve))
  }
}

const ran: string[] = []
let gate = new Gate()

@Injectable()
class Orders {
  @Lease({ name: (order: string) => `order/${order}` })
  async ship(order: string, parcels: number): Promise<string> {
    ran.push(`ship ${order} ${parcels}`)
    await gate.passed
    return `${this.constructor.name} ${order}`
  }

  @Lease({ name: 'report', onBusy: 'skip' })
  async report(): Promise<string | undefined> {
    ran.push('report')
    await gate.passed
    return 'done'
  }

  @Lease({ name: 'report', wait: true })
  async reportLater(): Promise<void> {
    ran.push('later')
  }

  @Lease({ name: 'failing', onBusy: 'skip' })
  async failing(): Promise<void> {
    throw new ErrClaimDenied('of the method itself')
  }

  @Lease({ name: 'long' })
  async untilAborted(): Promise<unknown> {
    const { signal, fencingToken, name } = currentLease()
    ran.push(`${name} ${typeof fencingToken}`)
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
    ran.push('aborted')
    return signal.reason as unknown
  }
}

describe('LeaseModule', () => {
  let store: MemoryStore
  let applications: INestApplicationContext[]

  beforeEach(() => {
    store = new MemoryStore()
    applications = []
    ran.length = 0
    gate = new Gate()
  })
  afterEach(async () => {
    gate.open()
    for (const application of applications) await application.close()
  })

  /** An application, as if in a process of its own. */
  async function started(
    options: LeaseOptions = { client: memoryClient({ store }) },
    provider: Type = Orders,
  ): Promise<INestApplicationContext> {
    @Module({ imports: [LeaseModule.forRoot(options)], providers: [provider] })
    class Application {}
    const application = await NestFactory.createApplicationContext(Application, { logger: false, abortOnError: false })
    applications.push(application)
    return application
  }

  it('provides a Manager to the whole application', async () => {
    @Injectable()
    class Worker {
      readonly manager: Manager
      constructor(manager: Manager) {
        this.manager = manager
      }
    }
    Reflect.defineMetadata('design:paramtypes', [Manager], Worker)
    const application = await started(undefined, Worker)
    const token = await application.get(Worker).manager.claim('db', 'a', { seconds: 30 })
    await token.check()
  })

  it('a decorated method runs under the lease that its arguments name, in one process at a time', async () => {
    const [here, there] = [await started(), await started()].map((application) => application.get(Orders))
    const works: unknown[] = []
    const listen = (trace: unknown): void => void works.push((trace as WorkTrace).lease)
    traces.work.start.subscribe(listen)
    const shipping = here?.ship('1', 2)
    await whenRan(1)
    traces.work.start.unsubscribe(listen)
    expect(works, 'for spans').to.deep.equal(['order/1'])
    await fails(there?.ship('1', 3), ErrClaimDenied)
    const other = there?.ship('2', 3)
    gate.open()
    expect(await Promise.all([shipping, other])).to.deep.equal(['Orders 1', 'Orders 2'])
    expect(await there?.ship('1', 4)).to.equal('Orders 1')
    expect(ran).to.deep.equal(['ship 1 2', 'ship 2 3', 'ship 1 4'])
  })

  it('where another has it, `skip` resolves with undefined and `wait` waits', async () => {
    const [here, there] = [await started(), await started()].map((application) => application.get(Orders))
    const report = here?.report()
    await whenRan(1)
    expect(await there?.report()).to.equal(undefined)
    const later = track(there?.reportLater() ?? Promise.resolve())
    gate.open()
    expect(await report).to.equal('done')
    await later.promise
    expect(ran).to.deep.equal(['report', 'later'])
  })

  it('what the method itself throws is thrown, also where it looks like a refusal', async () => {
    await fails((await started()).get(Orders).failing(), ErrClaimDenied)
  })

  it('in a method `currentLease()` has its signal and fencing token; elsewhere it says what to do', async () => {
    const application = await started()
    const work = application.get(Orders).untilAborted()
    await whenRan(1)
    expect(ran).to.deep.equal(['long bigint'])
    await application.close()
    expect(await work).to.be.instanceOf(ErrStopped)
    expect(() => currentLease()).to.throw('call currentLease() in a method with @Lease')
  })

  it('after a pause of the process a new reading of its signal is right at once', async () => {
    const clock = new TestClock()
    const client = memoryClient({ store: new MemoryStore({ clock }), clock })
    let pause: Promise<void> | undefined
    @Injectable()
    class Computing {
      @Lease({ name: 'computing', duration: { seconds: 60 } })
      async run(ms: number): Promise<boolean[]> {
        const before = currentLease().signal.aborted
        pause = clock.pause(ms) // the clocks have moved, and no timer has fired yet
        return [before, currentLease().signal.aborted]
      }
    }
    const manager = new Manager({ client, clock })
    const computing = (await started({ manager }, Computing)).get(Computing)
    expect(await computing.run(45_000)).to.deep.equal([false, false])
    await pause
    expect(await computing.run(60_000)).to.deep.equal([false, true])
    await pause
    await manager.stop()
    await client.close()
  })

  it('the name may be made of the instance as well', async () => {
    @Injectable()
    class Tenant {
      readonly prefix = 'tenant'
      @Lease({
        name(this: unknown, id: string) {
          return `${(this as Tenant).prefix}/${id}`
        },
      })
      async run(_id: string): Promise<string> {
        return currentLease().name
      }
    }
    expect(await (await started(undefined, Tenant)).get(Tenant).run('1')).to.equal('tenant/1')
  })

  describe('at the end of the application', () => {
    it('calls and waits end before the servers close, works go on until then, and all is closed once', async () => {
      await using leases = new FakeLeases()
      let closed = 0
      const application = await started({ manager: leases.manager, close: () => void closed++ })
      const [orders, module] = [application.get(Orders), application.get(LeaseModule)]
      const report = orders.report()
      const working = track(orders.untilAborted())
      await whenRan(2)
      const waiting = track(orders.reportLater())
      module.beforeApplicationShutdown()
      for (const call of [waiting.promise, orders.ship('1', 1)])
        await fails(call, ErrStopped, 'the application is ending')
      expect([working.state, closed]).to.deep.equal(['pending', 0])
      gate.open()
      expect(await report).to.equal('done')
      await Promise.all([module.onApplicationShutdown(), module.onApplicationShutdown()])
      expect([working.state, closed, ran.at(-1)]).to.deep.equal(['fulfilled', 1, 'aborted'])
    })

    it('waits end, works are aborted and awaited, and leases are released before the connections are closed', async () => {
      const client = memoryClient({ store })
      let atTheEnd: readonly string[] = []
      const observer = memoryClient({ store })
      const close = async (): Promise<void> => {
        await observer.refresh()
        atTheEnd = [...ran, ...observer.leases().keys()]
      }
      const application = await started({ client, close })
      const rival = await started()
      const orders = application.get(Orders)
      const report = rival.get(Orders).report()
      await whenRan(1)
      const waiting = track(orders.reportLater())
      const working = orders.untilAborted()
      await whenRan(2)
      await application.close()
      expect(waiting.error).to.be.instanceOf(ErrStopped)
      expect(await working).to.be.instanceOf(ErrStopped)
      expect(atTheEnd).to.deep.equal(['report', 'long bigint', 'aborted', 'report'])
      await fails(orders.reportLater(), ErrStopped)
      await fails(client.refresh(), Error)
      gate.open()
      await report
      await observer.close()
    })

    it('a work that does not end keeps it waiting for `shutdownTimeout` only, and a warning says so', async () => {
      const application = await started({ client: memoryClient({ store }), shutdownTimeout: 10 })
      const warned: string[] = []
      const onWarning = ({ message }: Error): void => void warned.push(message)
      process.on('warning', onWarning)
      const shipping = track(application.get(Orders).ship('1', 1))
      await whenRan(1)
      await application.close()
      const words = '1 work under a lease did not end within shutdownTimeout'
      await until('the warning', () => warned.some((message) => message.includes(words)))
      process.off('warning', onWarning)
      expect(shipping.state).to.equal('pending')
      gate.open()
      await shipping.promise
    })

    it('a Manager that was given goes on', async () => {
      await using leases = new FakeLeases()
      const application = await started({ manager: leases.manager })
      await application.close()
      await leases.manager.claim('db', 'a', 1_000)
    })
  })

  it('a fake denies and takes leases on command', async () => {
    await using leases = new FakeLeases()
    const orders = (await started({ manager: leases.manager })).get(Orders)
    await leases.take('report')
    expect(await orders.report()).to.equal(undefined)
    await leases.free('report')
    const work = orders.untilAborted()
    await whenRan(1)
    await leases.take('long')
    expect(await work).to.have.property('code', 'LEASE_LOST')
  })

  it('options may come from a factory, with what it needs', async () => {
    class Settings {
      readonly namespace = 'billing'
    }
    Module({ providers: [Settings], exports: [Settings] })(Settings)
    const useFactory = async ({ namespace }: Settings): Promise<LeaseOptions> => ({
      client: memoryClient({ store, namespace }),
    })
    const leases = LeaseModule.forRootAsync({ imports: [Settings], useFactory, inject: [Settings] })
    @Module({ imports: [leases], providers: [Orders] })
    class Application {}
    const application = await NestFactory.createApplicationContext(Application, { logger: false, abortOnError: false })
    applications.push(application)
    gate.open()
    expect(await application.get(Orders).report()).to.equal('done')
  })

  it('decorates methods of controllers', async () => {
    @Controller()
    class Reports {
      @Get()
      @Lease({ name: 'page' })
      async page(): Promise<string> {
        return currentLease().name
      }

      @Lease({ name: 'other' })
      @Get()
      async other(): Promise<string> {
        return currentLease().name
      }
    }
    for (const name of ['page', 'other']) {
      const method: unknown = Object.getOwnPropertyDescriptor(Reports.prototype, name)?.value
      expect(Reflect.getMetadata('method', method as object), `what @Get has noted on ${name}`).to.equal(0)
    }
    const application = await started(undefined, Reports)
    expect(await application.get(Reports).page()).to.equal('page')
  })

  describe('bad input', () => {
    for (const [what, options, says] of [
      ['nothing', undefined, 'client must be given'],
      ['no client', {}, 'client must be given, or else a manager: LeaseModule.forRoot({ client: redisClient('],
      ['both', { client: {}, manager: {} }, 'client must be given, or else a manager'],
      ['no Client', { client: { url: 'redis://user:secret@host' } }, 'client must be a Client'],
      ['no Manager', { manager: {} }, 'manager must be a Manager'],
      ...['soon', {}, [], new Date(), new URL('redis://user:secret@host')].map(
        (shutdownTimeout) =>
          [
            `${typeof shutdownTimeout} ${Object.prototype.toString.call(shutdownTimeout)} as a duration`,
            { manager: { hold() {}, stop() {} }, shutdownTimeout },
            'shutdownTimeout must be a luxon Duration, an object such as { seconds: 30 }, or milliseconds',
          ] as const,
      ),
      [
        'to wait without an end',
        { manager: { hold() {}, stop() {} }, shutdownTimeout: Number.POSITIVE_INFINITY },
        'shutdownTimeout must be finite',
      ],
      ['what it does not know', { manager: { hold() {}, stop() {} }, ttl: 1 }, 'ttl is not an option'],
    ] as const) {
      it(`refuses ${what}, at once and from a factory`, async () => {
        expect(() => LeaseModule.forRoot(options as never))
          .to.throw(ErrNotValid, says)
          .and.satisfy(({ message }: Error) => !message.includes('secret'))
        @Module({ imports: [LeaseModule.forRootAsync({ useFactory: () => options as never })] })
        class Application {}
        const starting = NestFactory.createApplicationContext(Application, { logger: false, abortOnError: false })
        await fails(starting, ErrNotValid, says)
      })
    }

    it('a decorated method without a module does not start, and the error names the fix', async () => {
      @Module({ providers: [Orders] })
      class Application {}
      const starting = NestFactory.createApplicationContext(Application, { logger: false, abortOnError: false })
      await fails(starting, Error, 'import LeaseModule.forRoot({ client }) in the root module')
    })

    it('an instance that Nest has not made says so', async () => {
      await fails(new Orders().report(), Error, 'was not made by Nest')
    })

    it('a decorator without a name, with a wrong onBusy, or on a static method, is refused when the class is defined', () => {
      expect(() => Lease({} as never)).to.throw(ErrNotValid, "@Lease({ name: 'report' })")
      expect(() => Lease({ name: '' })).to.throw(ErrNotValid, 'name must be')
      expect(() => Lease(undefined as never)).to.throw(ErrNotValid, 'name must be')
      expect(() => Lease({ name: 'a', onBusy: 'wait' as never })).to.throw(ErrNotValid, "'throw' or 'skip'")
      const descriptor = { value: async () => {} }
      expect(() => Lease({ name: 'a' })(descriptor.value, {} as never, undefined as never)).to.throw(
        ErrNotValid,
        'experimentalDecorators',
      )
      expect(() => Lease({ name: 'a' })(Orders, 'run', descriptor)).to.throw(ErrNotValid, 'ordinary method')
    })

    for (const [what, options, says] of [
      ['that there is not', { ttl: 3 }, 'ttl is not an option'],
      ['of the wrong type', { wait: 'soon' }, 'wait must be'],
      ['too short', { duration: 1 }, 'duration must be'],
      ['too short for its renewal', { duration: { seconds: 1 }, renewEvery: { seconds: 1 } }, 'renewEvery must be'],
      ['that is the application’s', { signal: AbortSignal.timeout(1) }, 'signal is not an option'],
      ['of another recipe', { share: { weight: 1 } }, 'share is not an option'],
      ['as a name that breaks a rule', { name: 'with space' }, 'name must'],
      ['as a holder that breaks a rule', { holder: 'with space' }, 'holder must'],
    ] as const) {
      it(`an option ${what} is refused when the class is defined`, () => {
        expect(() => Lease({ name: 'a', ...options } as never)).to.throw(ErrNotValid, says)
      })
    }

    it('a name that is made by the call and breaks a rule is refused by it', async () => {
      @Injectable()
      class Wrong {
        @Lease({ name: (id: string) => id })
        async named(id: string): Promise<string> {
          return id
        }
      }
      const wrong = (await started(undefined, Wrong)).get(Wrong)
      await fails(wrong.named('with space'), ErrNotValid)
    })
  })
})

/** Waits until so many methods have begun. */
async function whenRan(count: number): Promise<void> {
  while (ran.length < count) await new Promise((resolve) => setImmediate(resolve))
}

async function fails(
  call: Promise<unknown> | undefined,
  kind: new (...args: never[]) => Error,
  says: string = '',
): Promise<void> {
  const error = await call?.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  expect(error).to.be.instanceOf(kind)
  expect((error as Error).message).to.contain(says)
}
