/** Tokens that run out, and passwords and drivers that are replaced while leases are held. */
import { expect } from 'chai'
import { failFast, type EtcdSubstrate } from 'lease-etcd'
import { startEtcd, startProxy, until, type Etcd } from 'lease-servers'
import type { Etcd3 } from 'etcd3'
import { generateKeyPairSync } from 'node:crypto'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { claim, grant, newCall, noneUnheard, release, settle, together, unique } from 'lease-scenes'
import { openSetting, type Setting } from './setting.ts'

noneUnheard()

/** A server with two users, each of the password `secret`, and a driver of the first. */
async function openGuarded(
  settings: Record<string, string>,
): Promise<AsyncDisposable & { server: Etcd; root: Etcd3; setting: Setting }> {
  const server = await startEtcd({ settings })
  const setting = openSetting(server)
  const { etcd } = setting
  for (const name of ['root', 'app']) {
    await etcd.role(name).create()
    if (name === 'app')
      await etcd.role(name).grant({ permission: 'Readwrite', range: etcd.range({ prefix: 'lease/' }) })
    await etcd.user(name).create('secret')
    await etcd.user(name).addRole(name)
  }
  await etcd.auth.authEnable()
  const root = setting.newEtcd({ auth: { username: 'root', password: 'secret' } })
  return {
    server,
    root,
    setting,
    async [Symbol.asyncDispose]() {
      await setting[Symbol.asyncDispose]()
      await server.stop()
    },
  }
}

/** Counts the watches that were begun, and those that the server has begun to serve. */
function counted(substrate: EtcdSubstrate): { resyncs: number; vacated: number } {
  const heard = { resyncs: 0, vacated: 0 }
  substrate.watch?.(({ kind }) => {
    if (kind === 'resync') heard.resyncs++
    if (kind === 'vacated') heard.vacated++
  })
  return heard
}

/** Keeps the streams of this driver, so that a test may end them. */
function streamsOf(etcd: Etcd3): { cancel(): unknown }[] {
  const streams: { cancel(): unknown }[] = []
  const watch = etcd.watchClient.watch.bind(etcd.watchClient)
  etcd.watchClient.watch = async (options) => {
    const stream = await watch(options)
    streams.push(stream)
    return stream
  }
  return streams
}

describe('a server that forgets its tokens', () => {
  let guarded: Awaited<ReturnType<typeof openGuarded>>
  before(async () => {
    guarded = await openGuarded({})
  })
  after(() => guarded[Symbol.asyncDispose]())

  /** A user of the same rights and with the password `secret`, and what makes the server forget its tokens. */
  const newUser = async () => {
    const name = unique('user')
    await guarded.root.user(name).create('secret')
    await guarded.root.user(name).addRole('app')
    const forget = async (password = 'secret'): Promise<unknown> =>
      await guarded.root.auth.userChangePassword({ name, password })
    return { name, forget }
  }

  together({
    'gives another one to a watch, though nothing else asks': async () => {
      const { name, forget } = await newUser()
      const etcd = guarded.setting.newEtcd({ auth: { username: name, password: 'secret' } })
      const streams = streamsOf(etcd)
      const namespace = unique('ns')
      const heard = counted(guarded.setting.substrate({ etcd, namespace }))
      await until('the watch', () => heard.resyncs >= 1)
      await forget()
      streams[0]?.cancel()
      await until('the watch to begin again', () => heard.resyncs >= 2)
      const other = guarded.setting.substrate({ etcd: guarded.root, namespace })
      await grant(other, claim('l', 'a', 60_000))
      await settle(other, release('l', 'a'))
      await until('its hints', () => heard.vacated >= 1)
    },

    'gives another one to calls': async () => {
      const { name, forget } = await newUser()
      const etcd = guarded.setting.newEtcd({ auth: { username: name, password: 'secret' } })
      const substrate = guarded.setting.substrate({ etcd })
      await grant(substrate, claim('l', 'a', 60_000))
      await forget()
      await grant(substrate, claim('m', 'a', 60_000))
    },
  })

  it('gets the present password at each login, by calls and by the watch', async () => {
    const current = { password: 'secret' }
    const { name, forget } = await newUser()
    const etcd = guarded.setting.newEtcd({
      auth: {
        username: name,
        get password() {
          return current.password
        },
      },
    })
    const streams = streamsOf(etcd)
    const substrate = guarded.setting.substrate({ etcd })
    const heard = counted(substrate)
    await grant(substrate, claim('l', 'a', 60_000))
    await until('the watch', () => heard.resyncs >= 1)
    await forget('second')
    current.password = 'second'
    streams[0]?.cancel()
    await until('the watch to begin again', () => heard.resyncs >= 2)
    await forget('third')
    const [verdict] = await substrate.apply([claim('m', 'a', 60_000)], newCall({ timeoutMs: 60_000 }))
    expect(verdict?.outcome).to.equal('unknown')
    expect(String((verdict as { cause?: unknown }).cause)).to.match(/refused the credentials/)
    expect(String((verdict as { cause?: unknown }).cause)).not.to.match(/second|third/)
    current.password = 'third'
    await grant(substrate, claim('m', 'a', 60_000))
  })
})

describe('a server whose tokens carry their date', () => {
  let guarded: Awaited<ReturnType<typeof openGuarded>>
  const folder = mkdtempSync(join(tmpdir(), 'lease-etcd-jwt-'))
  before(async () => {
    const { publicKey, privateKey } = generateKeyPairSync('rsa', {
      modulusLength: 2048,
      publicKeyEncoding: { type: 'spki', format: 'pem' },
      privateKeyEncoding: { type: 'pkcs1', format: 'pem' },
    })
    chmodSync(folder, 0o755) // servers may run as somebody else
    writeFileSync(join(folder, 'public.pem'), publicKey)
    writeFileSync(join(folder, 'private.pem'), privateKey)
    const [publicFile, privateFile] = [join(folder, 'public.pem'), join(folder, 'private.pem')]
    guarded = await openGuarded({
      'auth-token': `jwt,pub-key=${publicFile},priv-key=${privateFile},sign-method=RS256,ttl=10m`,
    })
  })
  after(async () => {
    await guarded[Symbol.asyncDispose]()
    rmSync(folder, { recursive: true })
  })

  it('is asked for another token by calls and by the watch when any user, role or password has changed', async () => {
    const etcd = guarded.setting.newEtcd({ auth: { username: 'app', password: 'secret' } })
    const watching = guarded.setting.newEtcd({ auth: { username: 'app', password: 'secret' } })
    const streams = streamsOf(watching)
    const substrate = guarded.setting.substrate({ etcd })
    const heard = counted(guarded.setting.substrate({ etcd: watching }))
    await grant(substrate, claim('l', 'a', 60_000))
    await until('the watch', () => heard.resyncs >= 1)
    await guarded.root.user('somebody else').create('secret')
    await grant(substrate, claim('m', 'a', 60_000))
    streams[0]?.cancel()
    await until('the watch to begin again', () => heard.resyncs >= 2)
  })
})

describe('an Etcd3 that is replaced while it is in use', () => {
  it('makes place for another, with other certificates say: calls go there, and the watch when it begins again', async () => {
    await using server = await startEtcd()
    await using setting = openSetting(server)
    await using first = await startProxy(server.endpoints[0] ?? '')
    await using second = await startProxy(server.endpoints[0] ?? '')
    const make = (proxy: typeof first): Etcd3 =>
      setting.newEtcd({ ...failFast(), hosts: proxy.url(server.endpoints[0] ?? '') })
    const current = { etcd: make(first) }
    const etcd = new Proxy({} as Etcd3, { get: (_, name) => Reflect.get(current.etcd, name) as unknown })
    const substrate = setting.substrate({ etcd })
    const heard = counted(substrate)
    await grant(substrate, claim('l', 'a', 60_000))
    await until('the watch', () => heard.resyncs >= 1)
    current.etcd = make(second)
    await grant(substrate, claim('m', 'a', 60_000))
    expect(second.counters.requests).to.be.greaterThan(0)
    await first.refuse()
    await until('the watch to begin again', () => heard.resyncs >= 2)
  })
})
