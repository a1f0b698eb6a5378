import { expect } from 'chai'
import { createServer, type Server } from 'node:net'
import { clientPorts, releasePorts, reservePorts } from '#src/ports.ts'
import { onFreePorts, PortTakenError } from '#src/server.ts'
import { findRedis, launchRedis } from '#src/redis.ts'
import { startProxy } from 'lease-servers'

async function strangerOn(port: number): Promise<Server> {
  const stranger = createServer((socket) => socket.destroy())
  await new Promise<void>((resolve, reject) => {
    stranger.once('error', reject)
    stranger.listen(port, '127.0.0.1', resolve)
  })
  return stranger
}

const failureOf = async (work: Promise<unknown>): Promise<unknown> => {
  return await work.then(
    () => undefined,
    (error: unknown) => error,
  )
}

describe('ports of servers', () => {
  const ports: number[] = []

  afterEach(() => releasePorts(ports.splice(0)))

  async function reserve(count: number): Promise<readonly number[]> {
    const more = await reservePorts(count)
    ports.push(...more)
    return more
  }

  it('are different, and none is one that the system gives to clients', async () => {
    const [first, last] = clientPorts()
    const many = await reserve(200)
    expect(new Set(many).size).to.equal(200)
    expect(many.filter((port) => port >= first && port <= last)).to.deep.equal([])
  })

  it('come back after their release', async () => {
    const [port = 0] = await reserve(1)
    releasePorts([port])
    releasePorts([port])
    await new Promise((resolve) => setImmediate(resolve))
    const stranger = await strangerOn(port)
    await new Promise((resolve) => stranger.close(resolve))
  })

  it('are others on the next attempt when a stranger has one', async () => {
    const attempts: number[] = []
    const used = await onFreePorts(1, async ([port = 0]) => {
      attempts.push(port)
      if (attempts.length === 1) throw new PortTakenError('taken')
      return port
    })
    ports.push(used)
    expect(attempts).to.have.length(2)
    expect(attempts[1]).to.equal(used).and.not.to.equal(attempts[0])
  })

  it('let a server say in one line that its port is in use', async () => {
    const [port = 0] = await reserve(1)
    const stranger = await strangerOn(port)
    const error = await failureOf(launchRedis(await findRedis(), port))
    await new Promise((resolve) => stranger.close(resolve))
    expect(error).to.be.instanceOf(PortTakenError)
    expect(error)
      .to.have.property('message')
      .that.matches(/^Redis \S+ does not start: its port is in use$/)
  })

  it('let a proxy accept again once a stranger has left', async () => {
    await using proxy = await startProxy('redis://127.0.0.1:1')
    const { port } = proxy
    await proxy.refuse()
    const stranger = await strangerOn(port)
    let accepts = false
    const accepted = proxy.accept().then(() => (accepts = true))
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(accepts).to.equal(false)
    await new Promise((resolve) => stranger.close(resolve))
    await accepted
    expect(proxy.port).to.equal(port)
  })

  it('let a proxy refuse while it waits for its port', async () => {
    await using proxy = await startProxy('redis://127.0.0.1:1')
    await proxy.refuse()
    const stranger = await strangerOn(proxy.port)
    const accepted = proxy.accept()
    await proxy.refuse()
    await accepted
    await new Promise((resolve) => stranger.close(resolve))
    const other = await strangerOn(proxy.port)
    await new Promise((resolve) => other.close(resolve))
  })
})
