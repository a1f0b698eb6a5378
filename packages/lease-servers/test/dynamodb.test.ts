import { expect } from 'chai'
import { existsSync, readlinkSync } from 'node:fs'
import { dirname } from 'node:path'
import { type Dynamodb, type DynamodbOptions, dynamodbTarget, startDynamodb } from 'lease-servers'
import { ask } from './dynamodb-ask.ts'

async function createTable(endpoint: string, name: string): Promise<void> {
  await ask(endpoint, 'CreateTable', {
    TableName: name,
    AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }],
    KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }],
    BillingMode: 'PAY_PER_REQUEST',
  })
}

const target = dynamodbTarget()

describe(`the shared server ${target.name}`, () => {
  it('speaks the protocol of DynamoDB, and is the same for all who ask', async () => {
    expect(await ask(target.endpoint, 'ListTables', {})).to.have.property('TableNames')
    expect(dynamodbTarget().endpoint).to.equal(target.endpoint)
  })
})

describe('a local DynamoDB of one’s own', () => {
  const servers: Dynamodb[] = []

  afterEach(async () => {
    await Promise.all(servers.splice(0).map(async (server) => server.stop()))
  })

  async function started(options?: DynamodbOptions): Promise<Dynamodb> {
    const server = await startDynamodb(options)
    servers.push(server)
    return server
  }

  it('that is durable keeps its tables and its port over a restart, and over a kill', async () => {
    const server = await started({ durable: true })
    const { port, pid } = server
    await createTable(server.endpoint, 'first')
    await server.restart()
    expect(server.pid).not.to.equal(pid)
    expect(await ask(server.endpoint, 'ListTables', {})).to.deep.equal({ TableNames: ['first'] })
    await createTable(server.endpoint, 'second')
    await server.kill()
    expect(server.pid).to.equal(undefined)
    await server.restart()
    expect(await ask(server.endpoint, 'ListTables', {})).to.deep.equal({ TableNames: ['first', 'second'] })
    expect(server.port).to.equal(port)
  })

  it('otherwise begins empty', async () => {
    const server = await started()
    await createTable(server.endpoint, 'first')
    await server.restart()
    expect(await ask(server.endpoint, 'ListTables', {})).to.deep.equal({ TableNames: [] })
  })

  it('answers nothing while paused, and everything afterwards', async () => {
    const server = await started()
    server.pause()
    let isAnswered = false
    const answer = ask(server.endpoint, 'ListTables', {}).then(() => (isAnswered = true))
    await new Promise((resolve) => setTimeout(resolve, 100))
    expect(isAnswered).to.equal(false)
    server.resume()
    await answer
  })

  it('leaves no process and no folder', async function () {
    if (!existsSync('/proc/self/cwd')) this.skip()
    const server = await started()
    const { pid = 0 } = server
    const folder = readlinkSync(`/proc/${pid}/cwd`)
    expect(dirname(folder)).not.to.equal('/')
    await server.stop()
    await server.stop()
    expect(existsSync(folder)).to.equal(false)
    expect(() => process.kill(pid, 0)).to.throw('ESRCH')
  })
})

describe('where a local DynamoDB comes from', () => {
  const before = process.env['LEASE_SERVERS_ORIGINS']

  afterEach(() => {
    if (before === undefined) delete process.env['LEASE_SERVERS_ORIGINS']
    else process.env['LEASE_SERVERS_ORIGINS'] = before
  })

  it('who finds none learns what to do', async () => {
    process.env['LEASE_SERVERS_ORIGINS'] = 'debian' // no package of Debian has one
    const failure: unknown = await startDynamodb().catch((error: unknown) => error)
    expect(String(failure)).to.match(/no dynoxide[^]*on this machine[^]*on PATH[^]*DYNAMODB_ENDPOINT/)
  })
})
