import { expect } from 'chai'
import { LeaseEvents, Manager } from 'lease-core'
import type { Op, Verdict } from 'lease-core/adapter'
import { etcdTargets, startEtcd, startProxy, until, type Etcd } from 'lease-servers'
import { etcdClient, failFast, type EtcdSubstrate } from 'lease-etcd'
import { Etcd3, GRPCUnavailableError, type IOptions } from 'etcd3'
import {
  noneUnheard,
  caught,
  claim,
  extend,
  grant,
  newCall,
  pin,
  readOne,
  release,
  settle,
  sleep,
  together,
  unique,
  unpin,
} from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

noneUnheard()

const verdictOf = async (
  substrate: EtcdSubstrate,
  op: Op = claim(unique('l'), 'a', 1_000),
  timeoutMs = 5_000,
): Promise<Verdict> => {
  const [verdict] = await substrate.apply([op], newCall({ timeoutMs }))
  return verdict ?? expect.fail()
}

/** The error with which every kind of reading fails. */
const readingError = async (substrate: EtcdSubstrate): Promise<Error> => {
  const calls = [substrate.read(undefined, newCall()), substrate.read(['l'], newCall()), substrate.pinned(newCall())]
  const outcomes = await Promise.allSettled<unknown>(calls)
  const errors = outcomes.map((outcome) => (outcome.status === 'rejected' ? (outcome.reason as Error) : expect.fail()))
  expect(new Set(errors.map(({ message }) => message)).size).to.equal(1)
  return errors[0] ?? expect.fail()
}

/** The cause of a claim's unknown outcome, where reading fails too. */
const causeOf = async (substrate: EtcdSubstrate): Promise<Error> => {
  const { outcome, cause } = await verdictOf(substrate)
  expect(outcome).to.equal('unknown')
  await readingError(substrate)
  return cause as Error
}

const className = (error: unknown): unknown => (error as object | undefined)?.constructor.name

for (const target of etcdTargets(1)) {
  describe(`failures, on ${target.name}`, () => {
    let setting: Setting
    before(() => {
      setting = openSetting(target)
    })
    after(() => setting[Symbol.asyncDispose]())

    const through = (url: string, options?: Partial<IOptions>): Etcd3 => setting.newEtcd({ hosts: url, ...options })
    /** As a user makes it who has not read on. */
    const bare: Partial<IOptions> = { faultHandling: {}, grpcOptions: {}, defaultCallOptions: {} }

    for (const [how, options] of [
      ['as we advise', {}],
      ['with its own defaults', bare],
    ] as const) {
      describe(`of an Etcd3 ${how}`, () => {
        for (const [kind, cut] of [
          ['reply', 'cutAfterRequest'],
          ['request', 'cutBeforeRequest'],
        ] as const) {
          it(`a claim whose ${kind} is lost is granted, in one term`, async () => {
            await using proxy = await startProxy(target.endpoints[0] ?? '')
            const namespace = unique('ns')
            const substrate = setting.substrate({
              namespace,
              etcd: through(proxy.url(target.endpoints[0] ?? ''), options),
            })
            await grant(substrate, claim('warm', 'a', 60_000))
            let created: string | undefined
            const lost = proxy[cut](1, /"h":"a"/).then(async () => {
              created = (await setting.etcd.get(`lease/${namespace}/l/l`).exec()).kvs[0]?.create_revision
            })
            const { fencingToken } = await grant(substrate, claim('l', 'a', 60_000))
            await lost
            expect(created === undefined || created === String(fencingToken)).to.equal(true)
            expect(kind === 'request' || created !== undefined).to.equal(true)
            expect(await readOne(setting.substrate({ namespace }), 'l')).to.include({ holder: 'a', fencingToken })
            expect(await settle(substrate, claim('l', 'a', 60_000))).to.have.property('outcome', 'refused')
          })
        }

        it('extensions, releases and takeovers whose replies are lost are done once', async () => {
          await using proxy = await startProxy(target.endpoints[0] ?? '')
          const substrate = setting.substrate({ etcd: through(proxy.url(target.endpoints[0] ?? ''), options) })
          const first = await grant(substrate, claim('l', 'a', 60_000, { value: 'v' }))
          let lost = proxy.cutAfterRequest(1, /\/l\/l/)
          const seen = await grant(substrate, extend('l', 'a', 60_000, { seen: first }))
          await lost
          expect(seen).to.include({ fencingToken: first.fencingToken, value: 'v', remainingMs: 60_000 })
          lost = proxy.cutAfterRequest(1, /\/l\/l/)
          const next = await grant(substrate, claim('l', 'b', 60_000, { lapsed: seen.version }))
          await lost
          expect(next.fencingToken > first.fencingToken).to.equal(true)
          lost = proxy.cutAfterRequest(1, /\/l\/l/)
          expect(await settle(substrate, release('l', 'b', { fencingToken: next.fencingToken }))).to.have.property(
            'outcome',
            'granted',
          )
          await lost
          expect(await readOne(substrate, 'l')).to.equal(undefined)
        })

        together({
          'a server that falls silent makes it unknown when the call is over, and is forgotten when it is back':
            async () => {
              await using proxy = await startProxy(target.endpoints[0] ?? '')
              const substrate = setting.substrate({ etcd: through(proxy.url(target.endpoints[0] ?? ''), options) })
              const held = await grant(substrate, claim('l', 'a', 60_000))
              proxy.pause()
              // As late as this machine is, the call with more time ends later, although it began first.
              const long = verdictOf(substrate, claim('m', 'a', 60_000), 4_000)
              const short = verdictOf(substrate, extend('l', 'a', 60_000, { fencingToken: held.fencingToken }), 400)
              const first = await Promise.race([short.then(() => 'short'), long.then(() => 'long')])
              expect(first).to.equal('short')
              const silent = await short
              expect(silent.outcome).to.equal('unknown')
              expect((silent.cause as Error).message).to.match(/no answer in time|cannot be reached|breaker/)
              proxy.resume()
              await long
              const again = await until('an answer', async () => {
                const verdict = await verdictOf(
                  substrate,
                  extend('l', 'a', 60_000, { fencingToken: held.fencingToken }),
                )
                return verdict.outcome === 'unknown' ? undefined : verdict
              })
              expect(again.holding).to.include({ fencingToken: held.fencingToken })
            },

          'calls work again soon after an outage, whatever the circuit breaker says': async () => {
            await using proxy = await startProxy(target.endpoints[0] ?? '')
            const substrate = setting.substrate({ etcd: through(proxy.url(target.endpoints[0] ?? ''), options) })
            await grant(substrate, claim('l', 'a', 60_000))
            await proxy.refuse()
            for (let index = 0; index < 3; index++) {
              expect(await verdictOf(substrate, claim('m', 'a', 60_000), 500)).to.have.property('outcome', 'unknown')
            }
            await proxy.accept()
            // One call outlasts the breaker, which opens for five seconds.
            expect(await verdictOf(substrate, claim('m', 'a', 60_000), 50_000)).to.have.property('outcome', 'granted')
          },
        })
      })
    }

    it('a release whose reply is lost is done, also if another has claimed the lease before it is sent again', async () => {
      const namespace = unique('ns')
      const others = setting.substrate({ namespace })
      const etcd = through(target.endpoints[0] ?? '')
      const substrate = setting.substrate({ namespace, etcd })
      const held = await grant(substrate, claim('l', 'a', 60_000))
      const { kv } = etcd
      const txn = kv.txn.bind(kv)
      let next: bigint | undefined
      kv.txn = async (...args) => {
        const answer = await txn(...args)
        if (next !== undefined) return answer
        next = (await grant(others, claim('l', 'b', 60_000))).fencingToken
        throw new GRPCUnavailableError('14 UNAVAILABLE: the connection was cut')
      }
      const op = release('l', 'a', { fencingToken: held.fencingToken, nonce: held.nonce, seen: held })
      expect(await settle(substrate, op)).to.deep.include({ outcome: 'granted' })
      expect(await readOne(others, 'l')).to.include({ holder: 'b', fencingToken: next })
    })

    it('a server that is not there says so, with the error as the cause', async () => {
      const cause = await causeOf(setting.substrate({ etcd: through('http://127.0.0.1:1') }))
      expect(cause.message).to.match(/is it running at this address/)
      expect(className(cause.cause)).to.equal('GRPCUnavailableError')
    })

    it('a driver that was closed says so', async () => {
      const etcd = new Etcd3({ hosts: [...target.endpoints], ...failFast() })
      etcd.close()
      expect((await causeOf(setting.substrate({ etcd }))).message).to.match(/already closed/)
    })

    it('a key of somebody else is passed over by those who read, and reported once for each lease', async () => {
      const namespace = unique('ns')
      const warnings: string[] = []
      const events = new LeaseEvents()
      events.subscribe((event) => {
        if (event.type === 'warning' && event.warning === 'unreadable-key') warnings.push(event.message)
      })
      const client = etcdClient({ etcd: setting.etcd, namespace, events, watch: false })
      const manager = new Manager({ client })
      await manager.claim('own', 'a', 60_000)
      await manager.pin('own', 'e')
      for (const [key, value] of [
        ['l/text', 'mine'],
        ['l/other', '{"h":1}'],
        ['p/text', 'mine'],
        ['p/odd', 'mine'],
      ] as const) {
        await setting.etcd.put(`lease/${namespace}/${key}`).value(value)
      }
      for (let twice = 0; twice < 2; twice++) {
        expect([...(await manager.leases()).keys()]).to.deep.equal(['own'])
        expect([...(await manager.pinned()).keys()]).to.deep.equal(['own'])
        expect(await manager.find('text')).to.equal(undefined)
      }
      const named = warnings.map((message) => /lease "(\w+)"/.exec(message)?.[1])
      expect(named).to.have.members(['odd', 'other', 'text'])
      for (const message of warnings) expect(message).to.match(/written by somebody else.* Remove the key/)
      expect(await caught(manager.claim('text', 'a', 60_000))).to.have.property('code', 'LEASE_UNKNOWN')
      expect(await caught(manager.token('text', 'a').check())).to.have.property('code', 'LEASE_NOT_HELD')
      await manager.stop()
      await client.close()
    })

    it('a key of somebody else hides no other from a read of several leases by name', async () => {
      const namespace = unique('ns')
      const warnings: string[] = []
      const substrate = setting.substrate({ namespace, onWarning: ({ warning }) => warnings.push(warning) })
      await grant(substrate, claim('own', 'a', 60_000))
      await settle(substrate, pin('own', 'e', 'g'))
      for (const kind of ['l', 'p']) await setting.etcd.put(`lease/${namespace}/${kind}/foreign`).value('mine')
      for (let twice = 0; twice < 2; twice++) {
        const names = ['foreign', 'own', 'vacant']
        expect([...(await substrate.read(names, newCall())).keys()]).to.deep.equal(['own'])
        expect([...(await substrate.pinned(newCall(), names)).keys()]).to.deep.equal(['own'])
      }
      expect(warnings).to.deep.equal(['unreadable-key'])
    })

    it('a key of somebody else makes its own lease unknown, and no other', async () => {
      const namespace = unique('ns')
      const substrate = setting.substrate({ namespace })
      await setting.etcd.put(`lease/${namespace}/l/foreign`).value('mine')
      const verdicts = await substrate.apply([claim('foreign', 'a', 1_000), claim('own', 'a', 1_000)], newCall())
      expect(verdicts.map(({ outcome }) => outcome)).to.deep.equal(['unknown', 'granted'])
      expect(verdicts[0]?.cause)
        .to.have.property('message')
        .that.matches(/foreign.*somebody else/)
    })

    it('an etcd lease that was revoked is replaced, and the leases that hung on it are vacant', async () => {
      const { etcd } = setting
      const namespace = unique('ns')
      const substrate = setting.substrate({ namespace })
      await grant(substrate, claim('l', 'a', 77_000))
      const [kv] = (await etcd.get(`lease/${namespace}/l/l`).exec()).kvs
      await etcd.leaseClient.leaseRevoke({ ID: kv?.lease ?? expect.fail() })
      expect(await readOne(substrate, 'l')).to.equal(undefined)
      const batch = [claim('m', 'a', 77_000), claim('n', 'a', 1_000), release('l', 'a')]
      const verdicts = await substrate.apply(batch, newCall())
      expect(verdicts.map(({ outcome }) => outcome)).to.deep.equal(['granted', 'granted', 'granted'])
    })

    it('a call given up in a pause between two attempts sends no more', async () => {
      const controller = new AbortController()
      const substrate = setting.substrate({ etcd: through('http://127.0.0.1:1') })
      const pending = substrate.apply([claim('l', 'a', 1_000)], newCall({ signal: controller.signal }))
      await sleep(5)
      const reason = new Error('given up')
      controller.abort(reason)
      expect((await pending)[0]).to.deep.include({ outcome: 'unknown', cause: reason })
    })
  })
}

describe('a server that is full', () => {
  let server: Etcd
  let setting: Setting
  before(async () => {
    server = await startEtcd({ settings: { 'quota-backend-bytes': String(4 * 1024 * 1024) } })
    setting = openSetting(server)
  })
  after(async () => {
    await setting[Symbol.asyncDispose]()
    await server.stop()
  })

  it('leaves claims and extensions unknown with advice, changes nothing by them, and is warned of', async () => {
    const substrate = setting.substrate()
    const held = await grant(substrate, claim('l', 'a', 60_000))
    const full: unknown = await (async () => {
      for (const size of [100_000, 1_000, 1]) {
        for (let index = 0; index < 200; index++)
          await setting.etcd.put(`large/${size}/${index}`).value('x'.repeat(size))
      }
    })().catch((error: unknown) => error)
    expect(String(full)).to.match(/database space exceeded/)
    // A claim that finds an etcd lease that lasts long enough may still write: etcd does not count what nested transactions put.
    const other = setting.substrate()
    const batch = [claim('n', 'a', 60_000), claim('o', 'a', 5_000)]
    for (const { outcome, cause } of await other.apply(batch, newCall())) {
      expect(outcome).to.equal('unknown')
      expect((cause as Error).message).to.match(/database of etcd is full.*compact/)
      expect((cause as Error).cause).to.be.instanceOf(Error)
    }
    expect((await other.read(undefined, newCall())).size).to.equal(0)
    expect(await readOne(substrate, 'l')).to.deep.equal(held)
    expect((await substrate.inspect(newCall())).map(({ warning }) => warning)).to.include('no-space')
    expect((await verdictOf(substrate, release('l', 'a'))).outcome).to.be.oneOf(['granted', 'unknown'])
  })
})

describe('a server that asks who it is', () => {
  let server: Etcd
  let root: Setting
  const rootAuth = { username: 'root', password: 'secret' }
  before(async () => {
    server = await startEtcd()
    const etcd = new Etcd3({ hosts: [...server.endpoints], ...failFast() })
    await etcd.role('root').create()
    await etcd.role('app').create()
    await etcd.role('app').grant({ permission: 'Readwrite', range: etcd.range({ prefix: 'app/' }) })
    for (const [name, role] of [
      ['root', 'root'],
      ['app', 'app'],
    ] as const) {
      await etcd.user(name).create('secret')
      await etcd.user(name).addRole(role)
    }
    await etcd.auth.authEnable()
    etcd.close()
    root = openSetting(server)
  })
  after(async () => {
    await root[Symbol.asyncDispose]()
    await server.stop()
  })

  it('a wrong password, no password, no right: each says so and nothing is done', async () => {
    const as = (auth?: IOptions['auth']): EtcdSubstrate =>
      root.substrate({ namespace: 'n', etcd: root.newEtcd(auth === undefined ? {} : { auth }) })
    expect((await causeOf(as({ ...rootAuth, password: 'wrong' }))).message).to.match(/refused the credentials/)
    expect((await as(rootAuth).read(undefined, newCall())).size).to.equal(0)
    // Of claims it depends on the version of etcd: see the warning `rights-unchecked`.
    expect((await readingError(as())).message).to.match(/does not know who this is/)
    const stranger = await readingError(as({ username: 'app', password: 'secret' }))
    expect(stranger.message).to.match(/lacks a right/)
    expect(className(stranger.cause)).to.equal('EtcdPermissionDeniedError')
  })

  it('the right to the prefix is enough, for watching and inspecting too', async () => {
    const etcd = root.newEtcd({ auth: { username: 'app', password: 'secret' } })
    const substrate = root.substrate({ etcd, prefix: 'app/' })
    const heard: string[] = []
    substrate.watch?.((change) => heard.push(change.kind))
    await grant(substrate, claim('l', 'a', 60_000))
    expect(await settle(substrate, pin('l', 'e', 'g'))).to.have.property('outcome', 'granted')
    await settle(substrate, unpin('l', 'e', 'g'))
    await until('the watch', () => heard.includes('resync'))
    await settle(substrate, release('l', 'a'))
    await until('the release', () => heard.includes('vacated'))
    expect(await substrate.inspect(newCall())).to.be.an('array')
  })
})
