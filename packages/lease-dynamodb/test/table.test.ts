import {
  CreateTableCommand,
  DeleteItemCommand,
  DescribeTableCommand,
  DescribeTimeToLiveCommand,
  GetItemCommand,
  UpdateItemCommand,
} from '@aws-sdk/client-dynamodb'
import { expect } from 'chai'
import { systemClock, type Clock } from 'lease-core'
import { StoreFailure } from 'lease-core/adapter'
import { cloudFormation, createTable, iamPolicy, terraform, type DynamodbDriver } from 'lease-dynamodb'
import { caught, claim, expire, grant, newCall, pin, release, settle, unique, unpin } from 'lease-scenes'
import { dynamodbTarget } from 'lease-servers'
import { openSetting, type Setting } from './setting.ts'

const target = dynamodbTarget()
const WEEK_S = 7 * 86_400

describe(`the table, on ${target.name}`, () => {
  let setting: Setting
  let namespace: string
  before(async () => {
    setting = await openSetting(target)
  })
  after(() => setting[Symbol.asyncDispose]())
  beforeEach(() => (namespace = unique('ns')))

  const keyOf = (lease: string): { ns: { S: string }; nm: { S: string } } => ({
    ns: { S: namespace },
    nm: { S: lease },
  })
  const itemOf = async (lease: string) => {
    const command = new GetItemCommand({ TableName: setting.table, Key: keyOf(lease), ConsistentRead: true })
    return (await setting.client.send(command)).Item
  }
  /** Seconds from now. */
  const expiresIn = async (lease: string): Promise<number | undefined> => {
    const item = await itemOf(lease)
    const { N } = item?.['x'] ?? {}
    return N === undefined ? undefined : Number(N) - Date.now() / 1000
  }

  describe('createTable', () => {
    it('makes it once, however many ask for it, with on-demand billing and a time to live', async () => {
      const { client } = setting
      const table = unique('made')
      await Promise.all([1, 2, 3].map(() => createTable({ client, table })))
      await createTable({ client, table })
      const { Table } = await client.send(new DescribeTableCommand({ TableName: table }))
      expect(Table?.BillingModeSummary?.BillingMode).to.equal('PAY_PER_REQUEST')
      expect(Table?.KeySchema?.map(({ AttributeName }) => AttributeName)).to.deep.equal(['ns', 'nm'])
      const { TimeToLiveDescription } = await client.send(new DescribeTimeToLiveCommand({ TableName: table }))
      expect(TimeToLiveDescription).to.include({ TimeToLiveStatus: 'ENABLED', AttributeName: 'x' })
    })

    it('refuses a table with another key, and says what it has', async () => {
      const { client } = setting
      const table = unique('other')
      await client.send(
        new CreateTableCommand({
          TableName: table,
          AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'N' }],
          KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }],
          BillingMode: 'PAY_PER_REQUEST',
        }),
      )
      const error = await caught(createTable({ client, table }))
      expect(error).to.be.instanceOf(StoreFailure).and.include({ isSetUp: true })
      expect(error.message).to.include('has the primary key HASH id (N), and must have HASH ns (S), RANGE nm (S)')
    })

    it('waits for as long as the table is being made, and not for ever', async () => {
      const { Table } = await setting.client.send(new DescribeTableCommand({ TableName: setting.table }))
      let looks = 0
      const answers = ['CREATING', 'CREATING', 'ACTIVE']
      const slow: DynamodbDriver = {
        send: async (command: object) => {
          if (!(command instanceof DescribeTableCommand)) return {}
          return { Table: { ...Table, TableStatus: answers[looks++] ?? 'CREATING' } }
        },
      }
      let nowMs = 0
      const clock: Clock = {
        ...systemClock,
        monotonic: () => nowMs,
        setTimer: (delayMs, wake) => {
          nowMs += delayMs
          return systemClock.setTimer(0, wake)
        },
      }
      await createTable({ client: slow, table: setting.table, clock })
      expect(looks).to.equal(3)
      expect((await caught(createTable({ client: slow, table: setting.table, clock }))).message).to.match(
        /not ready after five minutes/,
      )
    })
  })

  describe('the time to live', () => {
    it('is only that of what is vacant and not pinned', async () => {
      const substrate = setting.substrate({ namespace })
      const { fencingToken } = await grant(substrate, claim('l', 'a', 60_000))
      expect(await expiresIn('l')).to.equal(undefined)
      await settle(substrate, release('l', 'a', { fencingToken }))
      expect(await expiresIn('l')).to.be.within(WEEK_S - 60, WEEK_S + 2)
      const op = pin('l', 'operator')
      await settle(substrate, op)
      expect(await expiresIn('l')).to.equal(undefined)
      await settle(substrate, unpin('l', 'operator', op.generation))
      expect(await expiresIn('l')).to.be.within(WEEK_S - 60, WEEK_S + 2)
      await grant(substrate, claim('l', 'a', 60_000))
      expect(await expiresIn('l')).to.equal(undefined)
    })

    it('ends a week after the time of the fencing token, where the claimer’s clock was fast', async () => {
      const hours = 3_600_000
      const fast: Clock = { ...systemClock, now: () => systemClock.now() + 48 * hours }
      const { version } = await grant(setting.substrate({ namespace, clock: fast }), claim('l', 'a', 60_000))
      await settle(setting.substrate({ namespace }), expire('l', version))
      expect(await expiresIn('l')).to.be.within(WEEK_S + 47 * 3600, WEEK_S + 49 * 3600)
    })

    it('of a counted lease is a week and a day after the last grant, where a claim has defined it', async () => {
      const substrate = setting.substrate({ namespace })
      const share = { weight: 1, capacity: 2, passing: 0, lapsed: new Map<string, string>() }
      await grant(substrate, claim('by-use#a', 'a', 60_000, { share }))
      expect(await expiresIn('by-use#')).to.be.within(8 * 86_400 - 60, 8 * 86_400 + 120)
      await substrate.apply(
        [{ kind: 'define', lease: 'defined#', capacity: 2, from: undefined, generation: unique('g') }],
        newCall(),
      )
      await grant(substrate, claim('defined#a', 'a', 60_000, { share }))
      expect(await expiresIn('defined#')).to.equal(undefined)
    })
  })

  describe('fencing tokens', () => {
    it('rise after the item was deleted', async () => {
      const substrate = setting.substrate({ namespace })
      const first = await grant(substrate, claim('l', 'a', 60_000))
      await settle(substrate, release('l', 'a', { fencingToken: first.fencingToken }))
      await setting.client.send(new DeleteItemCommand({ TableName: setting.table, Key: keyOf('l') }))
      const second = await grant(setting.substrate({ namespace }), claim('l', 'a', 60_000))
      expect(second.fencingToken > first.fencingToken).to.equal(true)
      await settle(substrate, release('l', 'a', { fencingToken: second.fencingToken }))
      await setting.client.send(new DeleteItemCommand({ TableName: setting.table, Key: keyOf('l') }))
      // The same process, which believes that it knows the item.
      expect((await grant(substrate, claim('l', 'a', 60_000))).fencingToken > second.fencingToken).to.equal(true)
    })

    it('rise where the next claimer’s clock is slow, and where it was set back by years', async () => {
      const years = 365 * 86_400_000
      let token = 0n
      for (const offsetMs of [0, -1_000, -40 * years, 5_000, -5_000]) {
        const clock: Clock = { ...systemClock, now: () => systemClock.now() + offsetMs }
        const substrate = setting.substrate({ namespace, clock })
        const { fencingToken } = await grant(substrate, claim('l', 'a', 60_000))
        expect(fencingToken > token, `${fencingToken} after ${token}`).to.equal(true)
        token = fencingToken
        await settle(substrate, release('l', 'a', { fencingToken }))
      }
    })
  })

  it('keeps the attributes that others have put there', async () => {
    const substrate = setting.substrate({ namespace })
    const { fencingToken } = await grant(substrate, claim('l', 'a', 60_000))
    await setting.client.send(
      new UpdateItemCommand({
        TableName: setting.table,
        Key: keyOf('l'),
        UpdateExpression: 'SET remark = :remark',
        ExpressionAttributeValues: { ':remark': { S: 'ours' } },
      }),
    )
    await settle(substrate, release('l', 'a', { fencingToken }))
    await grant(substrate, claim('l', 'b', 60_000))
    expect((await itemOf('l'))?.['remark']).to.deep.equal({ S: 'ours' })
  })

  it('keeps no item of a share that is released', async () => {
    const substrate = setting.substrate({ namespace })
    const share = { weight: 1, capacity: 2, passing: 0, lapsed: new Map<string, string>() }
    const { fencingToken } = await grant(substrate, claim('l#a', 'a', 60_000, { share }))
    await settle(substrate, release('l#a', 'a', { fencingToken }))
    expect(await itemOf('l#a')).to.equal(undefined)
    expect((await grant(substrate, claim('l#a', 'a', 60_000, { share }))).fencingToken > fencingToken).to.equal(true)
  })

  it('that is replicated without strong consistency is warned of, and no other', async () => {
    const warningsOf = async (more: object): Promise<readonly string[]> => {
      const client: DynamodbDriver = { send: async () => ({ Table: { TableStatus: 'ACTIVE', ...more } }) }
      return (await setting.substrate({ client }).inspect(newCall())).map(({ warning }) => warning)
    }
    const Replicas = [{ RegionName: 'eu-west-1' }]
    expect(await warningsOf({ Replicas })).to.deep.equal(['global-table'])
    expect(await warningsOf({ Replicas, MultiRegionConsistency: 'STRONG' })).to.deep.equal([])
    expect(await warningsOf({})).to.deep.equal([])
    expect(await setting.substrate().inspect(newCall())).to.deep.equal([])
  })

  describe('the set-up as text', () => {
    it('of CloudFormation makes the table that createTable makes', async () => {
      const { Resources } = JSON.parse(cloudFormation({ table: unique('formed') })) as {
        Resources: { LeaseTable: { Properties: ConstructorParameters<typeof CreateTableCommand>[0] & object } }
      }
      const { TimeToLiveSpecification, ...input } = Resources.LeaseTable.Properties as never as {
        readonly TimeToLiveSpecification: object
        readonly TableName: string
      }
      expect(TimeToLiveSpecification).to.deep.equal({ AttributeName: 'x', Enabled: true })
      const { client } = setting
      await client.send(new CreateTableCommand(input as ConstructorParameters<typeof CreateTableCommand>[0]))
      await createTable({ client, table: input.TableName }) // it has the right key
    })

    it('of Terraform names the table, its key and its time to live', () => {
      const text = terraform({ table: 'app-leases' })
      for (const line of ['name         = "app-leases"', 'hash_key     = "ns"', 'range_key    = "nm"', '"x"']) {
        expect(text).to.include(line)
      }
    })

    it('of IAM allows all that the library calls, on this table only', async () => {
      const { Statement } = JSON.parse(
        iamPolicy({ table: 'leases', region: 'eu-west-1', account: '123456789012' }),
      ) as {
        Statement: { Action: string[]; Resource: string }[]
      }
      expect(Statement[0]?.Resource).to.equal('arn:aws:dynamodb:eu-west-1:123456789012:table/leases')
      const called = new Set<string>()
      const client: DynamodbDriver = {
        send: (command, options) => {
          called.add((command as object).constructor.name.replace(/Command$/, ''))
          return setting.client.send(command as DescribeTableCommand, options)
        },
      }
      const substrate = setting.substrate({ client })
      const { fencingToken } = await grant(substrate, claim('l', 'a', 60_000))
      await substrate.read(undefined, newCall())
      await substrate.read(['l', 'm'], newCall())
      await settle(substrate, release('l', 'a', { fencingToken }))
      const share = { weight: 1, capacity: 2, passing: 0, lapsed: new Map<string, string>() }
      const granted = await grant(substrate, claim('l#a', 'a', 60_000, { share }))
      await settle(substrate, release('l#a', 'a', { fencingToken: granted.fencingToken }))
      await substrate.inspect(newCall())
      const allowed = new Set(Statement[0]?.Action)
      // A transaction needs the rights of what it does, and none of its own.
      const needed = [...called].filter((name) => name !== 'TransactWriteItems').map((name) => `dynamodb:${name}`)
      expect(needed).to.include('dynamodb:UpdateItem')
      for (const action of needed) expect(allowed.has(action), action).to.equal(true)
    })
  })
})
