import { expect } from 'chai'
import { existsSync } from 'node:fs'
import { createServer } from 'node:net'
import { Redis as Client } from 'ioredis'
import { onStep, type Redis, redisTargets, startRedis } from 'lease-servers'

async function ask(url: string, ...command: [string, ...string[]]): Promise<unknown> {
  const client = new Client(url, { lazyConnect: true, enableReadyCheck: false, retryStrategy: () => null })
  let reason: unknown
  client.on('error', (error) => (reason = error))
  try {
    await client.connect()
    const [name, ...words] = command
    return await client.call(name, ...words)
  } catch (error) {
    throw reason ?? error // a refused greeting is notified of by an event only
  } finally {
    client.disconnect()
  }
}

async function folderOf(url: string): Promise<string> {
  const [, folder] = (await ask(url, 'CONFIG', 'GET', 'dir')) as [string, string]
  return folder
}

for (const target of redisTargets('server')) {
  describe(`the shared server ${target.name}`, () => {
    it('is Redis 7 or later, and the same for all who ask', async () => {
      const version = /redis_version:(\d+)/.exec(String(await ask(target.url, 'INFO')))?.[1]
      expect(Number(version)).to.be.at.least(7)
      expect(redisTargets('server')[0]?.url).to.equal(target.url)
    })
  })
}

describe('a Redis of one’s own', () => {
  const servers: Redis[] = []

  afterEach(async () => {
    await Promise.all(servers.splice(0).map(async (server) => server.stop()))
  })

  async function started(...options: Parameters<typeof startRedis>): Promise<Redis> {
    const server = await startRedis(...options)
    servers.push(server)
    return server
  }

  it('is of the version it says, at its url', async () => {
    const server = await started()
    expect(server.url).to.equal(`redis://127.0.0.1:${server.port}`)
    const info = String(await ask(server.url, 'INFO'))
    expect(info).to.include(`redis_version:${server.version}\r\n`)
    expect(info).to.include(`process_id:${server.pid}\r\n`)
  })

  it('reports what its start is doing, as long as somebody listens', async () => {
    const steps: string[] = []
    const listening = onStep((step) => steps.push(step))
    const server = await started()
    listening[Symbol.dispose]()
    expect(steps).to.include(`starting Redis ${server.version}`)
    const { length } = steps
    await started()
    expect(steps).to.have.length(length)
  })

  it('answers nothing while paused, and everything afterwards', async () => {
    const server = await started()
    const client = new Client(server.url)
    await client.ping()
    server.pause()
    let answered = false
    const answer = client.ping().then(() => (answered = true))
    await new Promise((resolve) => setTimeout(resolve, 100))
    expect(answered).to.equal(false)
    server.resume()
    await answer
    client.disconnect()
  })

  it('with an append-only file keeps port and data over a restart, and over a kill', async () => {
    const server = await started({ appendonly: true })
    const { port, pid } = server
    await ask(server.url, 'SET', 'kept', 'one')
    await server.restart()
    expect(server.pid).not.to.equal(pid)
    expect(await ask(server.url, 'GET', 'kept')).to.equal('one')
    await ask(server.url, 'SET', 'kept', 'two')
    await server.kill()
    expect(server.pid).to.equal(undefined)
    const refused: unknown = await ask(server.url, 'PING').catch((error: unknown) => error)
    expect(refused).to.be.instanceOf(Error)
    await server.restart()
    expect(await ask(server.url, 'GET', 'kept')).to.equal('two')
    expect(server.port).to.equal(port)
  })

  it('without one begins empty', async () => {
    const server = await started()
    await ask(server.url, 'SET', 'kept', 'one')
    await server.restart()
    expect(await ask(server.url, 'GET', 'kept')).to.equal(null)
  })

  it('lets in who knows the password, whatever it is made of, before and after a restart', async () => {
    const server = await started({ password: 'correct "horse\\ @/:' })
    expect(await ask(server.url, 'PING')).to.equal('PONG')
    const refused: unknown = await ask(`redis://127.0.0.1:${server.port}`, 'PING').catch((error: unknown) => error)
    expect(String(refused)).to.include('NOAUTH')
    await server.restart()
    expect(await ask(server.url, 'PING')).to.equal('PONG')
  })

  it('takes settings', async () => {
    const server = await started({ settings: { 'maxmemory-policy': 'allkeys-lru', appendonly: 'yes' } })
    expect(await ask(server.url, 'CONFIG', 'GET', 'maxmemory-policy')).to.deep.equal([
      'maxmemory-policy',
      'allkeys-lru',
    ])
    expect(await ask(server.url, 'CONFIG', 'GET', 'appendonly')).to.deep.equal(['appendonly', 'yes'])
  })

  it('says at once what is wrong with its settings', async () => {
    const failure: unknown = await started({ settings: { 'no-such-setting': 'yes' } }).catch((error: unknown) => error)
    expect(String(failure)).to.match(/does not start:[^]*no-such-setting/)
  })

  it('leaves no process and no folder, even when stopped while paused', async () => {
    const server = await started()
    const folder = await folderOf(server.url)
    expect(existsSync(folder)).to.equal(true)
    const { pid } = server
    server.pause()
    await server.stop()
    await server.stop()
    expect(existsSync(folder)).to.equal(false)
    expect(() => process.kill(pid ?? 0, 0)).to.throw('ESRCH')
  })

  it('comes back to its port once a stranger has left it', async () => {
    const server = await started()
    await server.kill()
    const stranger = createServer((socket) => socket.destroy())
    await new Promise<void>((resolve) => stranger.listen(server.port, '127.0.0.1', resolve))
    let isBack = false
    const back = server.restart().then(() => (isBack = true))
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect(isBack).to.equal(false)
    await new Promise((resolve) => stranger.close(resolve))
    await back
    expect(await ask(server.url, 'INFO')).to.include(`process_id:${server.pid}\r\n`)
  })
})

describe('where servers come from', () => {
  const before = process.env['LEASE_SERVERS_ORIGINS']

  afterEach(() => {
    if (before === undefined) delete process.env['LEASE_SERVERS_ORIGINS']
    else process.env['LEASE_SERVERS_ORIGINS'] = before
  })

  it('can be restricted, and who finds none learns what to do', async () => {
    process.env['LEASE_SERVERS_ORIGINS'] = 'embedded' // no npm package has a Redis
    const failure: unknown = await startRedis().catch((error: unknown) => error)
    expect(String(failure)).to.match(/no Redis 7 or later on this machine[^]*apt-get install redis-server[^]*REDIS_URL/)
  })
})
