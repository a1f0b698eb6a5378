import { ConditionalCheckFailedException, GetItemCommand, TransactWriteItemsCommand } from '@aws-sdk/client-dynamodb'
import { DynamoDBDocumentClient, TransactWriteCommand } from '@aws-sdk/lib-dynamodb'
import { expect } from 'chai'
import { ErrNotHeld, ErrTrapdoor, Manager } from 'lease-core'
import { DynamoGuard, dynamodbClient } from 'lease-dynamodb'
import { caught, unique } from 'lease-scenes'
import { dynamodbTarget } from 'lease-servers'
import { openSetting, type Setting } from './setting.ts'

const target = dynamodbTarget()

describe(`a guarded transaction, on ${target.name}`, () => {
  let setting: Setting
  let manager: Manager
  /** Of an item beside the leases. */
  let key: { ns: string; nm: string }
  before(async () => {
    setting = await openSetting(target)
    const { client, table } = setting
    manager = new Manager({ client: dynamodbClient({ client, table, namespace: unique('ns') }) })
  })
  after(async () => {
    await manager.stop()
    await setting[Symbol.asyncDispose]()
  })
  beforeEach(() => (key = { ns: unique('account'), nm: 'balance' }))

  const keyItem = (): { ns: { S: string }; nm: { S: string } } => ({ ns: { S: key.ns }, nm: { S: key.nm } })

  async function written(): Promise<string | undefined> {
    const { Item } = await setting.client.send(new GetItemCommand({ TableName: setting.table, Key: keyItem() }))
    return Item?.['text']?.S
  }

  /** By a plain client, with the checks last. */
  async function write(guard: DynamoGuard, text: string, condition?: object): Promise<void> {
    const Put = { TableName: setting.table, Item: { ...keyItem(), text: { S: text } }, ...condition }
    const items = [{ Put }, ...guard.checks]
    await guard.transact(items, () => setting.client.send(new TransactWriteItemsCommand({ TransactItems: items })))
  }

  /** By a document client, with the checks first. */
  async function writeDocument(guard: DynamoGuard, text: string): Promise<void> {
    const documents = DynamoDBDocumentClient.from(setting.client)
    const items = [...guard.documentChecks, { Put: { TableName: setting.table, Item: { ...key, text } } }]
    await guard.transact(items, () => documents.send(new TransactWriteCommand({ TransactItems: items })))
  }

  for (const [form, send] of [
    ['AttributeValues', write],
    ['documents', writeDocument],
  ] as const) {
    it(`of ${form} is done while the term stands, renewals in between or not, and not afterwards`, async () => {
      await manager.claim('l', 'a', 60_000)
      const guard = new DynamoGuard()
      await manager.token('l', 'a').check(guard)
      await manager.claim('l', 'a', 90_000)
      await send(guard, '1')
      await manager.release('l', 'a')
      const refused = await caught(send(guard, '2'))
      expect(refused).to.be.instanceOf(ErrNotHeld).and.include({ lease: 'l', holder: 'a' })
      expect(refused.cause).to.have.property('name', 'TransactionCanceledException')
      await manager.claim('l', 'a', 60_000) // a later term of the same holder
      expect(await caught(send(guard, '3'))).to.be.instanceOf(ErrNotHeld)
      expect(await written()).to.equal('1')
      await manager.release('l', 'a')
    })

    it(`of ${form} demands every term that was checked with the guard, and names the one that does not stand`, async () => {
      await Promise.all([manager.claim('from', 'a', 60_000), manager.claim('to', 'b', 60_000)])
      const guard = new DynamoGuard()
      await manager.token('from', 'a').check(guard)
      await manager.token('to', 'b').check(guard)
      expect(guard.checks).to.have.length(2)
      await send(guard, '1')
      await manager.release('to', 'b')
      expect(await caught(send(guard, '2')))
        .to.be.instanceOf(ErrNotHeld)
        .and.include({ lease: 'to', holder: 'b' })
      expect(await written()).to.equal('1')
      await manager.release('from', 'a')
    })
  }

  it('whose own condition fails is not refused for the lease', async () => {
    await manager.claim('own', 'a', 60_000)
    const guard = new DynamoGuard()
    await manager.token('own', 'a').check(guard)
    const isNew = { ConditionExpression: 'attribute_not_exists(nm)' }
    await write(guard, '1', isNew)
    const error = await caught(write(guard, '2', isNew))
    expect(error.name).to.equal('TransactionCanceledException')
    expect(error).not.to.be.instanceOf(ErrNotHeld)
    await manager.release('own', 'a')
    expect(await caught(write(guard, '3', isNew))).to.be.instanceOf(ErrNotHeld)
    expect(await written()).to.equal('1')
  })

  it('takes the later term of the same lease and holder instead of the earlier one', async () => {
    const guard = new DynamoGuard()
    for (let term = 0; term < 2; term++) {
      await (await manager.claim('again', 'a', 60_000)).check(guard)
      await write(guard, String(term))
      await manager.release('again', 'a')
    }
    expect(guard.checks).to.have.length(1)
  })

  it('guards a share of a counted lease as every lease', async () => {
    const share = { weight: 1, capacity: 2 }
    const client = dynamodbClient({ client: setting.client, table: setting.table, namespace: unique('ns') })
    await client.claimLease('printers#a', { holder: 'a', duration: 60_000, share })
    const trapdoor = client.leases().get('printers#a')?.trapdoor
    const guard = new DynamoGuard()
    await trapdoor?.(guard)
    await write(guard, '1')
    await client.claimLease('printers#b', { holder: 'b', duration: 60_000, share })
    await write(guard, '2')
    await client.releaseLease('printers#a', 'a')
    expect(await caught(write(guard, '3'))).to.be.instanceOf(ErrNotHeld)
    expect(await written()).to.equal('2')
    await client.close()
  })

  it('guards nothing before the check, and says so', async () => {
    const guard = new DynamoGuard()
    expect(() => guard.checks).to.throw(ErrTrapdoor, /check\(\) first/)
    expect(() => guard.documentChecks).to.throw(ErrTrapdoor, /check\(\) first/)
    expect(await caught(guard.transact([], async () => {}))).to.be.instanceOf(ErrTrapdoor)
  })

  it('without the checks of its guard is not sent', async () => {
    await manager.claim('left-out', 'a', 60_000)
    await manager.claim('left-out-too', 'a', 60_000)
    const guard = new DynamoGuard()
    await manager.token('left-out', 'a').check(guard)
    const items = [...guard.checks]
    await manager.token('left-out-too', 'a').check(guard)
    let isSent = false
    const error = await caught(guard.transact(items, async () => void (isSent = true)))
    expect(error).to.be.instanceOf(ErrTrapdoor).and.include({ lease: 'left-out-too' })
    expect(isSent).to.equal(false)
  })

  it('that fails for another reason keeps its error, whatever the error looks like', async () => {
    await manager.claim('other', 'a', 60_000)
    const guard = new DynamoGuard()
    await manager.token('other', 'a').check(guard)
    const items = [...guard.checks, { Put: {} }]
    const cancelled = (...codes: readonly string[]): Error =>
      Object.assign(new Error(`Transaction cancelled [${codes.join(', ')}]`), {
        name: 'TransactionCanceledException',
        CancellationReasons: codes.map((Code) => ({ Code })),
      })
    const others = [
      cancelled('TransactionConflict', 'None'),
      cancelled('ThrottlingError', 'None'),
      cancelled('None', 'ConditionalCheckFailed'),
      cancelled(),
      new ConditionalCheckFailedException({ message: 'of another request', $metadata: {} }),
      new Error('socket hang up'),
    ]
    for (const error of others) expect(guard.explain(error, items)).to.equal(error)
    expect(guard.explain(cancelled('ConditionalCheckFailed', 'None'), items)).to.be.instanceOf(ErrNotHeld)
    // Some errors have the reasons in their message only.
    const bare = Object.assign(new Error('cancelled, specific reasons [ConditionalCheckFailed, None]'), {
      name: 'TransactionCanceledException',
    })
    expect(guard.explain(bare, items)).to.be.instanceOf(ErrNotHeld)
    expect(guard.explain(bare, items.toReversed())).to.equal(bare)
  })

  it('with any other key is refused as such', async () => {
    await manager.claim('k', 'a', 60_000)
    for (const key of [{}, setting.client, 'guard', 0, null]) {
      expect(await caught(manager.token('k', 'a').check(key))).to.be.instanceOf(ErrTrapdoor)
    }
  })
})
