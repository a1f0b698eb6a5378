/** The first mistakes that everybody makes: nothing waits in silence. */
import { CreateTableCommand, DynamoDBClient, PutItemCommand } from '@aws-sdk/client-dynamodb'
import { expect } from 'chai'
import { ErrInvalid, ErrUnknown, Manager } from 'lease-core'
import { StoreFailure, type SubstrateWarning } from 'lease-core/adapter'
import { dynamodbClient, type DynamodbDriver } from 'lease-dynamodb'
import { caught, claim, failsForSetUp, leavesNoTimer, newCall, pin, settle, unique } from 'lease-scenes'
import { dynamodbTarget } from 'lease-servers'
import { openSetting, type Setting } from './setting.ts'

const target = dynamodbTarget()

describe(`a set-up that cannot work, on ${target.name}`, () => {
  let setting: Setting
  before(async () => {
    setting = await openSetting(target)
  })
  after(() => setting[Symbol.asyncDispose]())

  const over = (client: DynamodbDriver, words: RegExp, table = setting.table): Promise<void> =>
    failsForSetUp(dynamodbClient({ client, table, namespace: unique('ns') }), words)

  /** A driver that the service refuses in this way: the local server looks at neither signatures nor rights. */
  const refusing = (name: string, message: string): DynamodbDriver => ({
    send: () => Promise.reject(Object.assign(new Error(message), { name, $metadata: { attempts: 1 } })),
  })

  it('fails at once where there is no such table, and says how to make one', async () => {
    await over(setting.client, /no such table .* createTable\(\{ client, table \}\)/, unique('missing'))
  })

  it('fails at once where the table has another key', async () => {
    const table = unique('other-key')
    await setting.client.send(
      new CreateTableCommand({
        TableName: table,
        AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }],
        KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }],
        BillingMode: 'PAY_PER_REQUEST',
      }),
    )
    await over(setting.client, /another primary key: it needs the hash key ns \(S\) and the range key nm \(S\)/, table)
  })

  it('fails at once without credentials, with wrong ones, and without the rights', async () => {
    const none = setting.newClient({
      credentials: () => Promise.reject(Object.assign(new Error('none found'), { name: 'CredentialsProviderError' })),
    })
    await over(none, /AWS does not know who this is: give the DynamoDBClient credentials/)
    for (const name of ['UnrecognizedClientException', 'InvalidSignatureException', 'ExpiredTokenException']) {
      await over(refusing(name, 'The security token is invalid'), /AWS does not know who this is/)
    }
    const denied = refusing('AccessDeniedException', 'User: app is not authorized to perform: dynamodb:GetItem')
    await over(denied, /these credentials lack a right on the table: iamPolicy\(\{ table \}\)/)
  })

  it('fails at once without a region', async () => {
    const before = { ...process.env }
    for (const name of ['AWS_REGION', 'AWS_DEFAULT_REGION']) delete process.env[name]
    process.env['AWS_CONFIG_FILE'] = process.env['AWS_SHARED_CREDENTIALS_FILE'] = '/dev/null'
    const credentials = { accessKeyId: 'test', secretAccessKey: 'test' }
    const client = new DynamoDBClient({ credentials })
    try {
      await over(client, /the DynamoDBClient has no region/)
    } finally {
      client.destroy()
      for (const name of ['AWS_CONFIG_FILE', 'AWS_SHARED_CREDENTIALS_FILE']) delete process.env[name]
      Object.assign(process.env, before)
    }
  })

  it('that is only away is no set-up: a claim names it, and nothing of it may have happened', async () => {
    const client = setting.newClient({ endpoint: 'http://127.0.0.1:1', maxAttempts: 1 })
    const leases = dynamodbClient({ client, table: setting.table, namespace: 'ns', requestTimeout: { seconds: 1 } })
    const manager = new Manager({ client: leases })
    const error = await caught(manager.claim('a', 'me', { seconds: 5 }))
    expect(error).to.be.instanceOf(ErrUnknown)
    expect(error.message)
      .to.match(/DynamoDB cannot be reached: check region and endpoint/)
      .and.not.include('may have happened')
    await manager.stop()
    await leases.close()
  })

  it('an item that somebody else wrote is never claimed, nor overwritten, and hides no other', async () => {
    const namespace = unique('ns')
    const warnings: SubstrateWarning[] = []
    const substrate = setting.substrate({ namespace, onWarning: (warning) => warnings.push(warning) })
    await settle(substrate, claim('ours', 'a', 60_000))
    const others = [
      {},
      { v: { S: '1' }, h: { N: '7' } },
      { v: { S: '1' }, h: { S: 'no-token' } },
      { v: { S: '1' }, p: { S: 'x' } },
    ]
    for (const [index, more] of others.entries()) {
      const lease = `theirs-${index}`
      const Item = { ns: { S: namespace }, nm: { S: lease }, ...more }
      await setting.client.send(new PutItemCommand({ TableName: setting.table, Item }))
      const [verdict] = await substrate.apply([claim(lease, 'a', 60_000)], newCall())
      expect(verdict?.outcome).to.equal('unknown')
      expect(verdict?.cause).to.be.instanceOf(StoreFailure).and.include({ isNotDone: true })
      expect(verdict?.cause)
        .to.have.property('message')
        .that.matches(/theirs-\d" was written by somebody else/)
    }
    const all = [...(await substrate.read(undefined, newCall())).keys()]
    expect(all).to.deep.equal(['ours'])
    await substrate.read(undefined, newCall())
    expect(warnings).to.have.length(others.length)
    expect(warnings[0]).to.have.property('warning', 'unreadable-item')
  })

  it('an item that would be too large is refused as such, and stays as it is', async () => {
    const namespace = unique('ns')
    const substrate = setting.substrate({ namespace })
    const before = await settle(substrate, claim('l', 'a', 60_000))
    let refusal: unknown
    let pins = 0
    while (refusal === undefined) {
      const op = pin('l', `${'x'.repeat(240)}-${pins}`, `${'g'.repeat(90_000)}-${pins}`)
      const [verdict] = await substrate.apply([op], newCall())
      if (verdict?.outcome === 'granted') pins++
      else refusal = verdict?.cause
    }
    expect(pins).to.equal(4)
    expect(refusal).to.be.instanceOf(StoreFailure).and.include({ isNotDone: true, isSetUp: false })
    expect((refusal as Error).message).to.match(/above the 400 KB that DynamoDB allows/)
    expect((await substrate.pinned(newCall())).get('l')?.size).to.equal(pins)
    expect((await substrate.read(['l'], newCall())).get('l')?.version).to.equal(before.holding?.version)
  })

  it('a short job leaves no timer behind where it holds, releases, stops and closes at once', async () => {
    const { client, table } = setting
    await leavesNoTimer((clock) => dynamodbClient({ client, table, namespace: unique('ns'), clock }))
  })

  it('a refusal by another holder is none of these', async () => {
    const { client, table } = setting
    const leases = dynamodbClient({ client, table, namespace: unique('ns') })
    await leases.claimLease('l', { holder: 'a', duration: 60_000 })
    const error = await caught(leases.claimLease('l', { holder: 'b', duration: 60_000 }))
    expect(error).to.be.instanceOf(ErrInvalid)
    await leases.close()
  })
})
