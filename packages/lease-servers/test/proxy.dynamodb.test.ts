import { expect } from 'chai'
import { type AnswerFault, dynamodbTarget, type Proxy, startProxy, until } from 'lease-servers'
import { ask } from './dynamodb-ask.ts'

const target = dynamodbTarget()
const REFUSAL = 'HTTP/1.1 400 Said\r\ncontent-length: 15\r\n\r\n{"__type":"No"}'

describe(`a proxy in front of ${target.name}`, () => {
  let proxy: Proxy
  let table: string
  let way: string

  beforeEach(async () => {
    table = `proxy.dynamodb.test-${process.pid}-${Math.round(performance.now())}`
    await ask(target.endpoint, 'CreateTable', {
      TableName: table,
      AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }],
      KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }],
      BillingMode: 'PAY_PER_REQUEST',
    })
    proxy = await startProxy(target.endpoint.replace('http:', 'dynamodb:'))
    way = `http://127.0.0.1:${proxy.port}`
  })

  afterEach(async () => {
    await proxy.close()
  })

  const add = (endpoint: string): Promise<object> =>
    ask(endpoint, 'UpdateItem', {
      TableName: table,
      Key: { id: { S: 'a' } },
      UpdateExpression: 'ADD n :one',
      ExpressionAttributeValues: { ':one': { N: '1' } },
    })

  async function count(endpoint: string = target.endpoint, more: object = { ConsistentRead: true }): Promise<number> {
    const { Item } = await ask(endpoint, 'GetItem', { TableName: table, Key: { id: { S: 'a' } }, ...more })
    return Number((Item as { readonly n: { readonly N: string } } | undefined)?.n.N ?? 0)
  }

  const failureOf = (call: Promise<unknown>): Promise<unknown> => call.catch((error: unknown) => error)
  const impair = (fault: AnswerFault): number => proxy.impair(fault)

  it('passes everything on and counts requests', async () => {
    expect(await add(way)).to.deep.equal({})
    expect(await count(way)).to.equal(1)
    expect(proxy.counters).to.include({ requests: 2, cuts: 0 })
  })

  it('loses the reply of a request that was carried out, or a request', async () => {
    const after = proxy.cutAfterRequest(1, /UpdateItem/)
    expect(await failureOf(add(way))).to.be.instanceOf(Error)
    await after
    expect(await count()).to.equal(1)
    const before = proxy.cutBeforeRequest(1, /UpdateItem/)
    expect(await failureOf(add(way))).to.be.instanceOf(Error)
    await before
    expect(await count()).to.equal(1)
  })

  it('answers in place of the server, which has not got the request', async () => {
    const fault = impair({
      kind: 'answer-requests',
      when: 'before',
      share: 1,
      matching: '^\\S+UpdateItem ',
      reply: REFUSAL,
    })
    expect(await add(way)).to.deep.equal({ __type: 'No' })
    expect(await count(way)).to.equal(0)
    proxy.mend(fault)
    expect(await add(way)).to.deep.equal({})
    expect(await count()).to.equal(1)
  })

  it('answers in place of the server, which has carried the request out', async () => {
    impair({ kind: 'answer-requests', when: 'after', share: 1, matching: 'UpdateItem', reply: REFUSAL })
    expect(await add(way)).to.deep.equal({ __type: 'No' })
    expect(await count(way)).to.equal(1)
  })

  it('remembers the replies to what matches, until it is mended', async () => {
    const fault = impair({
      kind: 'remember-replies',
      forMs: 3_600_000,
      matching: 'GetItem (?!.*"ConsistentRead":true)',
    })
    expect(await count(way, {})).to.equal(0)
    await add(way)
    expect([await count(way, {}), await count(way), await count()]).to.deep.equal([0, 1, 1])
    proxy.mend(fault)
    expect(await count(way, {})).to.equal(1)
  })

  it('lets the server have a request once more, on a connection of its own', async () => {
    const fault = impair({ kind: 'repeat-requests', share: 1, maxMs: 0, matching: 'UpdateItem' })
    expect(await add(way)).to.deep.equal({})
    await until('it was carried out twice', async () => (await count()) === 2)
    proxy.mend(fault)
    await add(way)
    expect(await count()).to.equal(3)
  })
})
