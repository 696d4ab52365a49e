// The Vercel AI SDK: for each line of JSON that says what to do, a line of JSON with what its user is shown.
import { createAmazonBedrock } from "@ai-sdk/amazon-bedrock";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, streamText, tool } from "ai";
import { createInterface } from "node:readline";
import { z } from "zod";

const City = z.object({ city: z.string() });
const openai = ({ url, key }) => createOpenAI({ baseURL: `${url}/v1`, apiKey: key });
const ofHeader = (answer) => answer.response.headers["x-fareclass-served-tier"];

// Of each provider: its model, how it chooses a tier, how it marks a prompt as worth caching, where it shows the tier.
const providers = {
  "openai-chat": {
    model: (asked) => openai(asked).chat(asked.model),
    tier: (tier) => ({ openai: { serviceTier: tier } }),
    point: { openai: { promptCacheBreakpoint: { mode: "explicit" } } },
    told: ofHeader,
  },
  "openai-responses": {
    model: (asked) => openai(asked)(asked.model),
    tier: (tier) => ({ openai: { serviceTier: tier } }),
    point: { openai: { promptCacheBreakpoint: { mode: "explicit" } } },
    told: (answer) => answer.providerMetadata.openai.serviceTier,
  },
  "openai-compatible": {
    model: ({ url, key, model }) =>
      createOpenAICompatible({
        name: "fareclass", baseURL: `${url}/v1`, apiKey: key, includeUsage: true, supportsStructuredOutputs: true,
      })(model),
    tier: (tier) => ({ fareclass: { service_tier: tier } }),
    point: { openaiCompatible: { cache_control: { type: "ephemeral" } } },
    told: ofHeader,
  },
  anthropic: {
    model: ({ url, key, model }) => createAnthropic({ baseURL: `${url}/v1`, apiKey: key })(model),
    tier: (tier) => ({ anthropic: { serviceTier: tier } }),
    point: { anthropic: { cacheControl: { type: "ephemeral" } } },
    told: (answer) => answer.providerMetadata.anthropic.serviceTier,
  },
  bedrock: {
    model: ({ url, key, keyId, model }) =>
      createAmazonBedrock({ baseURL: url, region: "us-east-1", accessKeyId: keyId, secretAccessKey: key })(model),
    tier: (tier) => ({ bedrock: { serviceTier: tier } }),
    point: { bedrock: { cachePoint: { type: "default" } } },
    told: (answer) => answer.providerMetadata.amazonBedrock.serviceTier.type,
  },
};

function options(asked, provider) {
  const { question, system, tier, retries, maxOutputTokens } = asked;
  const messages = [{ role: "user", content: question }];
  if (system) messages.unshift({ role: "system", content: system, providerOptions: provider.point });
  return {
    model: provider.model(asked), messages, maxOutputTokens, temperature: 0, allowSystemInMessages: true,
    ...(retries == null ? {} : { maxRetries: retries }),
    ...(tier ? { providerOptions: provider.tier(tier) } : {}),
  };
}

const doings = {
  async chat(asked, provider) {
    const answer = await generateText(options(asked, provider));
    const { inputTokens, inputTokenDetails, outputTokens } = answer.usage;
    const { cacheReadTokens } = inputTokenDetails;
    return {
      text: answer.text, tier: provider.told(answer),
      prompt: inputTokens, cached: cacheReadTokens, output: outputTokens,
    };
  },
  stream: (asked, provider) => Array.fromAsync(streamText(options(asked, provider)).textStream),
  async callTool(asked, provider) {
    const weather = tool({ description: "The weather in a city.", inputSchema: City, execute: () => asked.sunny });
    const { steps, text } = await generateText({
      ...options(asked, provider),
      tools: { get_weather: weather },
      prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? "auto" : { type: "tool", toolName: "get_weather" } }),
      stopWhen: ({ steps }) => steps.length === 2,
    });
    const [call] = steps[0].toolCalls;
    return { name: call.toolName, arguments: call.input, text };
  },
  async structured(asked, provider) {
    const { output } = await generateText({ ...options(asked, provider), output: Output.object({ schema: City }) });
    return output;
  },
};

async function shown(asked) {
  try {
    return { shown: await doings[asked.does](asked, providers[asked.provider]) };
  } catch (error) {
    const { name, statusCode, message } = error.lastError ?? error;
    return { failed: `${name} ${statusCode}: ${message}` };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await shown(JSON.parse(line))));
}
