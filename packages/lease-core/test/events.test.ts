import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { expect } from 'chai'
import { ErrNotValid } from '#src/errors.ts'
import { LeaseEvents, type LeaseEvent } from '#src/events.ts'
import { Manager, SubstrateClient } from '#src/index.ts'
import { TestClock } from '#src/testing/index.ts'
import { collectGarbage } from './garbage.ts'
import { Bench } from './manager.bench.ts'

const released = (lease: string): LeaseEvent => ({ type: 'released', lease, holder: 'a' })
const settle = (): Promise<void> => new TestClock().settle()

describe('LeaseEvents: in order, none dropped, no listener harms another', () => {
  it('tells every listener of every event, in order, after the transition', async () => {
    const events = new LeaseEvents()
    const heard: string[] = []
    events.subscribe((event) => heard.push(`1:${'lease' in event ? event.lease : ''}`))
    events.subscribe((event) => heard.push(`2:${'lease' in event ? event.lease : ''}`))
    events.emit(released('x'))
    events.emit(released('y'))
    expect(heard).to.deep.equal([])
    await settle()
    expect(heard).to.deep.equal(['1:x', '2:x', '1:y', '2:y'])
  })

  it('an event emitted by a listener comes after those that happened before it', async () => {
    const events = new LeaseEvents()
    const heard: string[] = []
    events.subscribe((event) => {
      const lease = 'lease' in event ? event.lease : ''
      heard.push(lease)
      if (lease === 'x') events.emit(released('z'))
    })
    events.emit(released('x'))
    events.emit(released('y'))
    await settle()
    expect(heard).to.deep.equal(['x', 'y', 'z'])
  })

  it('a listener that throws becomes a warning; the others hear the event', async () => {
    const events = new LeaseEvents()
    const warned: string[] = []
    const onWarning = ({ name, message }: Error): void => void warned.push(`${name} ${message}`)
    process.on('warning', onWarning)
    let heard = 0
    events.subscribe(() => {
      // oxlint-disable-next-line only-throw-error -- a listener may throw anything
      throw 'a string'
    })
    // oxlint-disable-next-line typescript/no-misused-promises -- a mistake that is easily made
    events.subscribe(() => Promise.reject(new Error('later')))
    events.subscribe(() => heard++)
    events.emit(released('x'))
    await settle()
    process.off('warning', onWarning)
    expect(heard).to.equal(1)
    expect(warned).to.deep.equal(['LeaseListenerWarning a string', 'Error later'])
  })

  it('a listener that throws what has no words harms nobody: the others hear the event, and it becomes a warning', async () => {
    const events = new LeaseEvents()
    const warned: string[] = []
    const onWarning = ({ message }: Error): void => void warned.push(message)
    process.on('warning', onWarning)
    const proxy = new Proxy(
      {},
      {
        getPrototypeOf: () => {
          throw new Error('trap')
        },
      },
    )
    for (const thrown of [Object.create(null), proxy, Symbol('s')]) {
      events.subscribe(() => {
        throw thrown
      })
    }
    let heard = 0
    events.subscribe(() => heard++)
    events.emit(released('x'))
    await settle()
    process.off('warning', onWarning)
    expect(heard).to.equal(1)
    expect(warned).to.deep.equal(['something without words', 'something without words', 'Symbol(s)'])
  })

  it('a listener that is no function is refused', () => {
    expect(() => new LeaseEvents().subscribe(5 as never)).to.throw(ErrNotValid, /listener must be a function/)
  })

  it('unsubscribing stops one subscription, also of a function that subscribed twice', async () => {
    const events = new LeaseEvents()
    let heard = 0
    const listener = (): void => void heard++
    const stop = events.subscribe(listener)
    events.subscribe(listener)
    stop()
    stop()
    events.emit(released('x'))
    await settle()
    expect(heard).to.equal(1)
  })

  it('one that subscribes is notified of what is emitted from then on, and of nothing before', async () => {
    const events = new LeaseEvents()
    const heard: string[] = []
    const subscribe = (name: string): (() => void) =>
      events.subscribe((event) => heard.push(`${name}:${'lease' in event ? event.lease : ''}`))
    subscribe('first')
    events.emit(released('x'))
    subscribe('second')
    events.emit(released('y'))
    events.subscribe((event) => {
      if ('lease' in event && event.lease === 'z') subscribe('late')
    })
    events.emit(released('z'))
    await settle()
    events.emit(released('end'))
    await settle()
    const ends = ['first:end', 'second:end', 'late:end']
    expect(heard).to.deep.equal(['first:x', 'first:y', 'second:y', 'first:z', 'second:z', ...ends])
  })

  it('one that was unsubscribed by a listener before it is notified nothing more, of that event neither', async () => {
    const events = new LeaseEvents()
    const heard: string[] = []
    events.subscribe(() => stop())
    const stop = events.subscribe(() => heard.push('stopped'))
    events.subscribe(() => heard.push('other'))
    events.emit(released('x'))
    events.emit(released('y'))
    await settle()
    expect(heard).to.deep.equal(['other', 'other'])
  })

  it('nobody listens, nothing is heard', () => {
    const events = new LeaseEvents()
    expect(events.heard('claimed')).to.equal(false)
    const stop = events.subscribe(() => {})
    expect(events.heard('claimed')).to.equal(true)
    stop()
    expect(events.heard('claimed')).to.equal(false)
  })

  it('reach who subscribes to their diagnostics channel just after a stream that used it was forgotten', async () => {
    const heard: unknown[] = []
    const listener = (message: unknown): void => void heard.push(message)
    ;((): void => void new LeaseEvents().heard('resync'))()
    await collectGarbage()
    subscribe('lease-core:resync', listener)
    try {
      await new Promise((resolve) => setTimeout(resolve, 20)) // Node clears up after a collection
      new LeaseEvents().emit({ type: 'resync' })
      await settle()
      expect(heard).to.deep.equal([{ type: 'resync' }])
    } finally {
      unsubscribe('lease-core:resync', listener)
    }
  })

  it('the same events go to the diagnostics channel of their type', async () => {
    const events = new LeaseEvents()
    const heard: unknown[] = []
    const listener = (message: unknown): void => void heard.push(message)
    subscribe('lease-core:released', listener)
    expect(events.heard('released')).to.equal(true)
    expect(events.heard('claimed')).to.equal(false)
    events.emit(released('x'))
    await settle()
    unsubscribe('lease-core:released', listener)
    expect(heard).to.deep.equal([released('x')])
  })
})

describe('LeaseEvents: warnings', () => {
  const warned: (Error & { code?: string; detail?: string })[] = []
  const onWarning = (warning: Error): void => void (warning.name === 'LeaseWarning' && warned.push(warning))
  beforeEach(() => {
    warned.length = 0
    process.on('warning', onWarning)
  })
  afterEach(() => void process.off('warning', onWarning))

  let messages = 0
  const warning = (): LeaseEvent & { type: 'warning' } => ({
    type: 'warning',
    warning: 'fsync-off',
    message: `fsync is off on server ${++messages}`,
    page: 'docs/substrates/postgres.md',
  })

  it('that nobody listens to become one warning of the process, with a code and the page', async () => {
    const event = warning()
    for (const events of [new LeaseEvents(), new LeaseEvents()]) for (let time = 0; time < 2; time++) events.emit(event)
    await settle()
    expect(warned.map(({ message, code }) => ({ message, code }))).to.deep.equal([
      { message: event.message, code: 'LEASE_FSYNC_OFF' },
    ])
    expect(warned[0]?.detail).to.include('docs/substrates/postgres.md')
  })

  it('of a client are heard in the stream of its manager, set up as in the examples, and are none of the process', async () => {
    const bench = new Bench()
    const heard: LeaseEvent[] = []
    bench.manager.events.subscribe((event) => heard.push(event))
    const event = warning()
    bench.client.warn(event)
    await settle()
    const store = { system: 'memory', namespace: 'default' }
    expect(heard).to.deep.equal([{ ...event, ...store }])
    expect(warned).to.deep.equal([])
    await bench.manager.stop()
    const late = warning()
    bench.client.warn(late)
    await settle()
    expect(heard).to.deep.equal([{ ...event, ...store }])
    expect(warned.map(({ message }) => message)).to.deep.equal([late.message])
  })

  it('of a client are heard once where it and its manager share a stream, or several managers have one client', async () => {
    const events = new LeaseEvents()
    const { clock, client, wire } = new Bench()
    const shared = new SubstrateClient({ substrate: wire, clock, events })
    const managers = [
      new Manager({ client: shared, clock, events }),
      new Manager({ client, clock }),
      new Manager({ client, clock }),
    ]
    const heard: string[] = []
    for (const [index, manager] of managers.entries()) {
      if (index < 2)
        manager.events.subscribe((event) => void (event.type === 'warning' && heard.push(`${index} ${event.message}`)))
    }
    const [first, second] = [warning(), warning()]
    shared.warn(first)
    client.warn(second)
    await settle()
    expect(heard).to.deep.equal([`0 ${first.message}`, `1 ${second.message}`])
    expect(warned).to.deep.equal([])
    for (const manager of managers) await manager.stop()
  })

  it('go to the diagnostics channel once, and are then no warning of the process', async () => {
    const heard: unknown[] = []
    const listener = (message: unknown): void => void heard.push(message)
    const bench = new Bench()
    subscribe('lease-core:warning', listener)
    try {
      const event = warning()
      bench.client.warn(event)
      await settle()
      expect(heard).to.deep.equal([{ ...event, system: 'memory', namespace: 'default' }])
      expect(warned).to.deep.equal([])
    } finally {
      unsubscribe('lease-core:warning', listener)
      await bench.manager.stop()
    }
  })

  it('a number of a few milliseconds, which may be meant as seconds, is one warning of each manager', async () => {
    const bench = new Bench()
    const heard: LeaseEvent[] = []
    bench.manager.events.subscribe((event) => event.type === 'warning' && heard.push(event))
    await bench.manager.claim('a', 'h', { milliseconds: 30 })
    await bench.manager.claim('b', 'h', 100)
    await settle()
    expect(heard).to.deep.equal([])
    await bench.manager.claim('c', 'h', 31)
    await bench.manager.hold('d', 'h', { duration: 32 })
    await settle()
    expect(heard.map((event) => event.type === 'warning' && event.warning)).to.deep.equal(['few-milliseconds'])
    await bench.manager.stop()

    const unheard = new Bench()
    await unheard.manager.hold('d', 'h', { duration: 33 })
    await settle()
    expect(warned.map(({ code }) => code)).to.deep.equal(['LEASE_FEW_MILLISECONDS'])
    expect(warned[0]?.message).to.include('{ seconds: 33 }')
    await unheard.manager.stop()
  })
})
