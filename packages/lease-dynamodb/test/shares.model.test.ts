/** Shares in DynamoDB and in memory, side by side. */
import { sharesLikeMemoryWithoutClock } from 'lease-scenes'
import { dynamodbTarget, enough } from 'lease-servers'
import { openSetting, type Setting } from './setting.ts'

const target = dynamodbTarget()

describe(`shares, on ${target.name}`, function () {
  this.timeout(enough(180_000))
  let setting: Setting
  before(async () => {
    setting = await openSetting(target)
  })
  after(() => setting[Symbol.asyncDispose]())

  sharesLikeMemoryWithoutClock(() => setting.substrate())
})
