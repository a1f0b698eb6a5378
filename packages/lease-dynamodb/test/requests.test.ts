/** What is asked of DynamoDB, and what becomes of its answers: a script stands for the server. */
import { expect } from 'chai'
import { DynamodbSubstrate, type DynamodbDriver } from 'lease-dynamodb'
import { claim, newCall, release } from 'lease-scenes'

interface Sent {
  readonly name: string
  readonly input: Readonly<Record<string, unknown>>
  readonly signal: AbortSignal | undefined
}

type Answer = (sent: Sent) => object | Promise<object>

/** A substrate over a server that answers so; it keeps what it was asked. */
function scripted(answer: Answer = () => ({})): { readonly substrate: DynamodbSubstrate; readonly sent: Sent[] } {
  const sent: Sent[] = []
  const client: DynamodbDriver = {
    send: async (command, options) => {
      const { constructor, input } = command as {
        readonly constructor: { name: string }
        readonly input: Sent['input']
      }
      const one = { name: constructor.name, input, signal: options?.abortSignal }
      sent.push(one)
      return answer(one)
    },
  }
  return { substrate: new DynamodbSubstrate({ client, table: 'leases', namespace: 'ns' }), sent }
}

const keyOf = (lease: string) => ({ ns: { S: 'ns' }, nm: { S: lease } })
const itemOf = (lease: string) => ({
  ...keyOf(lease),
  v: { S: 'v1' },
  tk: { N: '7' },
  h: { S: 'a' },
  e: { S: 'v1' },
  d: { N: '9000' },
  u: { N: '9000' },
  q: { S: 'n1' },
})
const share = { weight: 1, capacity: 2, passing: 0, lapsed: new Map<string, string>() }

/** The leases of a BatchGetItem. */
function keysIn({ input }: Sent): readonly (string | undefined)[] {
  const { leases } = input['RequestItems'] as { leases: { Keys: ReturnType<typeof keyOf>[]; ConsistentRead?: boolean } }
  expect(leases.ConsistentRead).to.equal(true)
  return leases.Keys.map(({ nm }) => nm.S)
}

/** A transaction that DynamoDB has cancelled for these reasons, one for each item. */
function cancelled(...codes: readonly string[]): Error {
  return Object.assign(new Error('Transaction cancelled'), {
    name: 'TransactionCanceledException',
    CancellationReasons: codes.map((Code) => ({ Code })),
    $metadata: { attempts: 1 },
  })
}

describe('the requests of DynamoDB', () => {
  it('read consistently: one lease, several, those of a namespace, and the shares of a counted lease', async () => {
    const { substrate, sent } = scripted()
    await substrate.read(['l'], newCall())
    await substrate.read(undefined, newCall())
    await substrate.waiting('l', newCall())
    await substrate.counted('l#', newCall())
    await substrate.pinned(newCall())
    expect(sent.map(({ name }) => name)).to.deep.equal([
      'GetItemCommand',
      'QueryCommand',
      'GetItemCommand',
      'QueryCommand',
      'QueryCommand',
    ])
    expect(sent.every(({ input }) => input['ConsistentRead'])).to.equal(true)
    await substrate.read(['l', 'm'], newCall())
    expect(sent.at(-1)?.name).to.equal('BatchGetItemCommand')
    expect(keysIn(sent.at(-1) as Sent)).to.deep.equal(['l', 'm'])
  })

  it('read many leases in batches of a hundred, and again what DynamoDB has left out', async () => {
    let isFirst = true
    const { substrate, sent } = scripted((one) => {
      const names = keysIn(one)
      const answered = isFirst ? names.slice(1) : names
      const left = isFirst ? names.slice(0, 1) : []
      isFirst = false
      return {
        Responses: { leases: answered.map((lease = '') => itemOf(lease)) },
        UnprocessedKeys:
          left.length === 0 ? {} : { leases: { Keys: left.map((lease = '') => keyOf(lease)), ConsistentRead: true } },
      }
    })
    const names = Array.from({ length: 150 }, (_, index) => `l${index}`)
    const found = await substrate.read([...names, 'l0'], newCall())
    expect([...found.keys()].toSorted()).to.deep.equal(names.toSorted())
    expect(sent.map((one) => keysIn(one).length).toSorted((one, next) => one - next)).to.deep.equal([1, 50, 100])
  })

  it('read every page of a namespace', async () => {
    const { substrate, sent } = scripted(({ input }) => {
      const from = input['ExclusiveStartKey'] as ReturnType<typeof keyOf> | undefined
      const page = from === undefined ? 1 : Number(from.nm.S.slice(1)) + 1
      const last = page < 3 ? { LastEvaluatedKey: keyOf(`l${page}`) } : {}
      return { Items: [itemOf(`l${page}`)], ...last }
    })
    expect([...(await substrate.read(undefined, newCall())).keys()]).to.deep.equal(['l1', 'l2', 'l3'])
    expect(sent).to.have.length(3)
  })

  for (const codes of [
    ['TransactionConflict', 'None'],
    ['ConditionalCheckFailed', 'TransactionConflict'],
  ]) {
    it(`take a transaction that was cancelled for ${codes.join(' and ')} for one that meets another`, async () => {
      const { substrate, sent } = scripted(({ name }) => {
        if (name !== 'TransactWriteItemsCommand') return {}
        throw cancelled(...codes)
      })
      const [verdict] = await substrate.apply([claim('l#a', 'a', 60_000, { share })], newCall())
      expect(verdict?.outcome).to.equal('contended')
      expect(sent.filter(({ name }) => name === 'TransactWriteItemsCommand')).to.have.length(1)
    })
  }

  it('of what may still arrive give the item another version first, and not of what certainly was not done', async () => {
    for (const [attempts, updates] of [
      [1, 0],
      [3, 1],
    ] as const) {
      let isFirst = true
      const { substrate, sent } = scripted(({ name }) => {
        if (name !== 'UpdateItemCommand' || !isFirst) return {}
        isFirst = false
        const busy = { name: 'ProvisionedThroughputExceededException', $metadata: { attempts } }
        throw Object.assign(new Error('The request was refused'), busy)
      })
      const op = claim('l', 'a', 60_000)
      await substrate.apply([op], newCall())
      sent.length = 0
      await substrate.apply([release('l', 'a', { nonce: op.nonce })], newCall({ epoch: 1 }))
      expect(sent.filter(({ name }) => name === 'UpdateItemCommand')).to.have.length(updates)
    }
  })

  it('take no attribute of another kind for what the library writes', async () => {
    const texts = ['v', 'h', 'e', 'q', 'o', 'a', 't', 's', 'g', 'b']
    const numbers = ['tk', 'd', 'u', 'w', 'l', 'c', 'x']
    for (const name of [...texts, ...numbers]) {
      const broken = { ...itemOf('l'), [name]: texts.includes(name) ? { N: '7' } : { S: '7' } }
      const { substrate, sent } = scripted((one) => (one.name === 'GetItemCommand' ? { Item: broken } : {}))
      expect((await substrate.read(['l'], newCall())).size, name).to.equal(0)
      const [verdict] = await substrate.apply([claim('l', 'b', 60_000)], newCall())
      expect(verdict?.outcome, name).to.equal('unknown')
      expect(sent.map((one) => one.name)).to.deep.equal(['GetItemCommand', 'GetItemCommand'])
    }
  })

  it('end when their call is given up', async () => {
    const never = new Promise<object>(() => {})
    const { substrate, sent } = scripted(() => never)
    let giveUp: (why: Error) => void = () => {}
    void substrate.apply([claim('l', 'a', 60_000)], newCall({ onAbort: (listener) => void (giveUp = listener) }))
    expect(sent[0]?.signal?.aborted).to.equal(false)
    giveUp(new Error('given up'))
    expect(sent[0]?.signal?.aborted).to.equal(true)
    expect(sent[0]?.signal?.reason).to.have.property('message', 'given up')
  })
})
