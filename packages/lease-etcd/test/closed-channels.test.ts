/** What an Etcd3 leaves open when it replaces or closes connections. */
import { expect } from 'chai'
import { failFast } from 'lease-etcd'
import { startEtcd, startProxy, until, type Etcd, type Proxy } from 'lease-servers'
import { Etcd3, type IOptions } from 'etcd3'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { createServer as createHttp2Server } from 'node:http2'
import { createRequire } from 'node:module'
import { createServer, type AddressInfo, type Socket } from 'node:net'

/** The sockets that this process has opened to the port and not closed. */
class OpenSockets implements Disposable {
  readonly #all = new Set<Socket>()
  readonly #made = (message: unknown): void => {
    const { socket } = message as { readonly socket: Socket }
    this.#all.add(socket)
    socket.once('close', () => this.#all.delete(socket))
  }

  constructor() {
    subscribe('net.client.socket', this.#made)
  }

  to({ port }: { readonly port: number }): number {
    return [...this.#all].filter(({ remotePort }) => remotePort === port).length
  }

  [Symbol.dispose](): void {
    unsubscribe('net.client.socket', this.#made)
  }
}

/** A driver behind a proxy of its own. */
interface Side {
  readonly proxy: Proxy
  readonly etcd: Etcd3
  /** Whether the call was answered. */
  readonly call: () => Promise<boolean>
}

describe('an Etcd3 with failFast()', () => {
  let server: Etcd
  let sockets: OpenSockets
  let ours: Side
  /** Without what ends the connections of closed channels. */
  let control: Side

  const open = async (grpcOptions: IOptions['grpcOptions']): Promise<Side> => {
    const url = server.endpoints[0] ?? ''
    const proxy = await startProxy(url)
    const etcd = new Etcd3({
      hosts: proxy.url(url),
      ...failFast({ callTimeoutMs: 200 }),
      ...(grpcOptions && { grpcOptions }),
    })
    const call = (): Promise<boolean> =>
      etcd
        .get('x')
        .exec()
        .then(
          () => true,
          () => false,
        )
    return { proxy, etcd, call }
  }

  before(async () => {
    server = await startEtcd()
  })
  after(() => server.stop())

  beforeEach(async () => {
    sockets = new OpenSockets()
    const { callInvocationTransformer: _, ...grpcOptions } = failFast().grpcOptions
    ours = await open(undefined)
    control = await open(grpcOptions)
    for (const { call } of [ours, control]) await until('a first call is answered', call)
  })
  afterEach(async () => {
    for (const { etcd, proxy } of [ours, control]) {
      etcd.close()
      await proxy.close()
    }
    sockets[Symbol.dispose]()
  })

  it('leaves no connection behind when it is refused for a while, and none when it is closed', async () => {
    await until('the control has left some connections behind', async () => {
      for (const { proxy } of [ours, control]) await proxy.refuse()
      for (const { call } of [ours, control]) await until('a call fails', async () => !(await call()))
      for (const { proxy } of [ours, control]) await proxy.accept()
      for (const { call } of [ours, control]) await until('a call is answered again', call)
      return sockets.to(control.proxy) > 1
    })
    await until('ours has the connection of its calls only', () => sockets.to(ours.proxy) <= 1)
    expect(await ours.call()).to.equal(true)
    for (const { etcd } of [ours, control]) etcd.close()
    await until('ours has none', () => sockets.to(ours.proxy) === 0)
    expect(sockets.to(control.proxy)).to.be.above(0)
  })

  it('leaves no connection behind when the server accepts and says nothing, whatever it does at the end', async () => {
    for (const { proxy } of [ours, control]) proxy.impair({ kind: 'drop' })
    await until('the control has left connections behind', async () => {
      expect(await Promise.all([ours.call(), control.call()])).to.deep.equal([false, false])
      return sockets.to(control.proxy) > 4
    })
    await until('ours has at most that of the next call', () => sockets.to(ours.proxy) <= 1)
    for (const { etcd } of [ours, control]) etcd.close()
    await until('ours has none', () => sockets.to(ours.proxy) === 0)
    expect(sockets.to(control.proxy)).to.be.above(0)
  })

  it('lets a call in flight end when another one that fails closes their channel', async () => {
    const held = ours.proxy.impair({ kind: 'hold', way: 'down' })
    const call = ours.etcd.kv.range({ key: Buffer.from('x') }, { deadline: Date.now() + 120_000 })
    await until('the answer is at the proxy', () => ours.proxy.counters.bytesDelayed > 0)
    expect(await ours.call()).to.equal(false)
    ours.proxy.mend(held)
    expect((await call).kvs).to.deep.equal([])
  })
})

/** As much of the gRPC of etcd3 as it takes to close a channel at once: etcd3 itself waits for a second. */
interface Grpc {
  readonly credentials: { createInsecure(): unknown }
  readonly Client: new (
    address: string,
    credentials: unknown,
    options: object,
  ) => {
    makeUnaryRequest(path: string, write: object, read: object, argument: Buffer, done: () => void): unknown
    close(): void
  }
}

describe('a channel of gRPC with failFast()', () => {
  it('leaves no connection behind when it is closed in the turn in which it asks for the address', async () => {
    const { Client, credentials } = createRequire(createRequire(import.meta.url).resolve('etcd3'))(
      '@grpc/grpc-js',
    ) as Grpc
    using sockets = new OpenSockets()
    await using ours = await openHttp2Server()
    await using control = await openHttp2Server()
    const { callInvocationTransformer, ...without } = failFast().grpcOptions
    const closeAtOnce = ({ port }: { readonly port: number }, options: object): void => {
      const same = (bytes: Buffer): Buffer => bytes
      const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure(), options)
      client.makeUnaryRequest('/x', same, same, Buffer.alloc(0), () => {})
      client.close()
    }
    closeAtOnce(ours, { ...without, callInvocationTransformer })
    closeAtOnce(control, without)
    await until('the control has left one behind', () => control.accepted() > 0 && sockets.to(control) === 1)
    await until('ours has none', () => sockets.to(ours) === 0)
    expect(sockets.to(control)).to.equal(1)
  })
})

/** It says what its protocol begins with, and answers nothing. */
async function openHttp2Server() {
  let accepted = 0
  const open = new Set<Socket>()
  const protocol = createHttp2Server()
  const server = createServer((socket) => {
    accepted++
    open.add(socket)
    socket.on('error', () => {})
    protocol.emit('connection', socket)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    port: (server.address() as AddressInfo).port,
    accepted: () => accepted,
    async [Symbol.asyncDispose]() {
      for (const socket of open) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
